"""Contrast, labels and names, as axe-core sees them, in every state of the page; light and dark, wide and narrow."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import AXE, PATIENCE_MS

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect

RESULTS = ".two li.result"


def begin(page: Any, url: str) -> None:
    page.goto(url)
    expect(page.locator("#index")).to_contain_text("40 passages")
    expect(page.locator("#version-list tbody tr")).to_have_count(2)


def answer(page: Any, url: str) -> None:
    page.goto(f"{url}/#q=black otter")
    expect(page.locator(RESULTS)).to_have_count(10)
    expect(page.locator(".one .name.id")).to_have_count(0)


def opened(page: Any, url: str) -> None:
    answer(page, url)
    page.locator(".two h3 button").first.click()
    page.click("#index-toggle")
    expect(page.locator("#shards tbody tr")).to_have_count(2)


def filtered(page: Any, url: str) -> None:
    page.goto(f'{url}/#q=black otter&filter={{"colour": "black", "number": {{"$gte": 3}}}}')
    expect(page.locator(RESULTS).first).to_be_visible()
    page.click("#filter-toggle")
    expect(page.locator(".values button").first).to_be_visible()


def none(page: Any, url: str) -> None:
    page.goto(f'{url}/#q=fish&filter={{"number": {{"$gte": 1000}}}}')
    expect(page.locator(".none")).to_be_visible()


def refused(page: Any, url: str) -> None:
    page.goto(f"{url}/#q=fish&depth=999999")
    expect(page.locator(".failure")).to_be_visible()


def incomplete(page: Any, url: str) -> None:
    coverage = {"shards": 2, "answered": 1, "fraction": 0.5, "missing": [{"shard": 0, "reason": "deadline"}]}
    page.route("**/v1/search", lambda route: route.fulfill(json={**route.fetch().json(), "coverage": coverage}))
    answer(page, url)
    expect(page.locator(".notice")).to_be_visible()


def code(page: Any, url: str) -> None:
    answer(page, url)
    page.get_by_role("button", name="Copy as code").click()
    expect(page.locator("#dialog pre")).to_have_count(2)


def key(page: Any, url: str) -> None:
    begin(page, url)
    page.click("#key-open")
    expect(page.locator("#dialog")).to_be_visible()


def question(page: Any, url: str) -> None:
    begin(page, url)
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator("#dialog")).to_be_visible()


STATES = (begin, answer, opened, filtered, none, refused, incomplete, code, key, question)


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("there is no axe-core here: npm install --no-package-lock --prefix tests/browser, or make browser")
    return AXE.read_text("utf-8")


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing(chromium: Any, url: str, axe: str, state: Callable[[Any, str], None]) -> None:
    # axe makes elements in ways that Trusted Types refuse; the page without them is tested everywhere else.
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = context.new_page()
        state(page, url)
        page.evaluate(axe)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                all_rules = page.evaluate("axe.run(document)")
                broken = [
                    (rule["id"], node["target"], node["failureSummary"])
                    for rule in all_rules["violations"]
                    for node in rule["nodes"]
                ]
                assert broken == [], (width, scheme)
                # A page that axe could not read would have no violations either.
                assert {"color-contrast", "button-name"} <= {rule["id"] for rule in all_rules["passes"]}
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        context.close()
