"""Whatever a passage, a field, a version, a message or a link holds is shown as text, and nothing of it runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shoal.records import Passage
from tests.browser.conftest import Tab, served_index

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect

ATTACKS = (
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=2</script>",
    '"><svg onload=window.hit=3>',
    "'-(window.hit=4)-'",
    "<a href=javascript:window.hit=5>press</a>",
    "</p></li><iframe srcdoc='<script>parent.hit=6</script>'></iframe>",
    "<style>body{display:none}</style>",
    "{{constructor.constructor('window.hit=7')()}}",
    "&lt;b&gt; &amp; <b>bold</b> \u202eevil\u202c \u0000\u2028",
)
STRANGE = """document.querySelectorAll(
    'img[src=x], iframe, #answer script, #answer a, #answer style, #answer b, svg[onload]'
).length"""


def hostile(marker: str) -> list[Passage]:
    return [
        Passage(
            f"{number}{attack}",
            f"fish {attack} {marker}",
            f"title {attack}",
            {"number": number, attack.replace(".", ""): attack, "tags": [attack, "plain"]},
        )
        for number, attack in enumerate(attack.replace("\u0000", "") for attack in ATTACKS)
    ]


@pytest.fixture(scope="module")
def hostile_url(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_index(tmp_path_factory.mktemp("hostile"), hostile) as url:
        yield url


def assert_nothing_ran(tab: Tab) -> None:
    assert tab.page.evaluate("window.hit") is None
    assert tab.page.evaluate(STRANGE) == 0
    assert [request.url for request in tab.requests if request.url.rpartition("/")[2] == "x"] == []
    assert [error for error in tab.errors if "Content Security Policy" in error or "dialog" in error] == []


def test_passages_are_text(tab: Tab, hostile_url: str) -> None:
    page = tab.page
    page.goto(f"{hostile_url}/#q=fish&results=9&depth=9")
    expect(page.locator(".two li.result")).to_have_count(9)
    for row in page.locator(".two h3 button").all():
        row.click()
    texts = {passage.id: passage for passage in hostile("of-v2")}
    for row in page.locator(".two li.result").all():
        passage = texts[row.get_attribute("data-id")]
        assert row.locator("h3").text_content() == passage.title
        assert row.locator("p.text").text_content() == passage.text
        facts = row.locator(".facts dd").all_text_contents()
        assert passage.id in facts
        assert {str(value) for value in passage.metadata.values() if not isinstance(value, list)} <= set(facts)
    assert_nothing_ran(tab)


def test_fields_and_their_values_are_text(tab: Tab, hostile_url: str) -> None:
    page = tab.page
    page.goto(f"{hostile_url}/#q=fish")
    expect(page.locator(".two li.result").first).to_be_visible()
    page.click("#filter-toggle")
    names = {name for passage in hostile("") for name in passage.metadata}
    expect(page.locator(".field")).to_have_count(len(names))
    assert {
        text.removesuffix("string").removesuffix("integer").removesuffix("list")
        for text in page.locator(".field .name").all_text_contents()
    } == names
    values = page.get_by_role("list", name="Values of tags").get_by_role("button")
    values.filter(has_text="<img").first.click()
    expect(page.locator("#chips")).to_contain_text(f"tags {ATTACKS[0]}")
    expect(page.locator(".two li.result")).to_have_count(1)
    page.get_by_role("button", name="Copy as code").click()
    expect(page.locator("#dialog pre").first).to_contain_text(ATTACKS[0])
    assert_nothing_ran(tab)


def test_links_are_text(tab: Tab, hostile_url: str) -> None:
    page = tab.page
    for attack in ATTACKS:
        names = ("q", "mode", "rerank", "recall", "depth", "results", "filter")
        page.goto(f"{hostile_url}/#" + "&".join(f"{name}={quote(attack)}" for name in names))
        expect(page.locator("#query")).to_have_value(attack)
        expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")
        filter_ = json.dumps({attack: 1, "tags": [attack], "number": {attack: attack}, "$or": attack})
        page.goto(f"{hostile_url}/#q=fish&filter={quote(filter_)}")
        expect(page.locator("#chips li")).to_have_count(4)
        expect(page.locator(".failure")).to_be_visible()
        assert_nothing_ran(tab)


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_what_a_server_says_is_text(tab: Tab, url: str, attack: str) -> None:
    """The server's answers are replaced: one that was taken over must not take the page over, too."""
    page = tab.page
    error = {"error": {"code": attack, "message": attack, "param": attack}, "status": 400}

    def describe(route: Any) -> None:
        strange = {
            "version": attack,
            "previous": attack,
            "problem": attack,
            "models": {"encoder": attack, "reranker": attack},
        }
        route.fulfill(json={**route.fetch().json(), **strange, "kind": attack, "search": attack, "created_at": attack})

    def versions(route: Any) -> None:
        listed = {"version": attack, "state": "refused", "created_at": attack, "passages": attack, "problem": attack}
        route.fulfill(json={"versions": [listed, {**listed, "version": f"2{attack}", "state": attack}]})

    def search(route: Any) -> None:
        answer = route.fetch().json()
        explain = answer.get("explain") and {**answer["explain"], "shards": [{"shard": 0, "missing": attack}]}
        coverage = {"shards": 2, "answered": 1, "fraction": 0.5, "missing": [{"shard": 0, "reason": attack}]}
        strange = {
            "reranker": attack,
            "mode": attack,
            "degraded": attack,
            "warnings": [attack],
            "index_version": attack,
        }
        route.fulfill(json={**answer, **strange, "explain": explain, "coverage": coverage})

    page.route("**/v1/index", describe)
    page.route("**/v1/index/versions", versions)
    page.route("**/v1/search", search)
    page.goto(f"{url}/#q=fish")
    expect(page.locator("#answer .notice").first).to_be_visible()
    page.click("#index-toggle")
    expect(page.locator("#index .facts").first).to_contain_text("version")
    expect(page.locator("#version-list tbody tr")).to_have_count(2)
    assert page.locator("#version-list th .id").last.text_content() == f"2{attack}"
    assert_nothing_ran(tab)
    page.get_by_role("button", name="Roll back").click()
    page.route("**/v1/index/rollback", lambda route: route.fulfill(status=409, json=error))
    page.locator("#dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#change-status")).to_contain_text("Nothing has changed")
    page.unroute("**/v1/search")
    page.route("**/v1/search", lambda route: route.fulfill(status=400, json=error, headers={"x-request-id": "r<b>1"}))
    page.locator("#go").click()
    expect(page.locator(".failure")).to_contain_text("r<b>1")
    assert_nothing_ran(tab)


def test_the_browser_refuses_what_the_page_never_does(tab: Tab, url: str, tmp_path: Path) -> None:
    """The policy itself: text as HTML, inline scripts, other hosts and frames are refused by the browser."""
    page = tab.page
    page.goto(url)
    expect(page.locator("#index")).to_contain_text("40 passages")
    for code in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('script').text = 'window.hit = 1'",
        "new Function('window.hit = 1')()",
    ):
        # Later, as what a debugger evaluates may more than the page.
        attempt = f"() => {{ try {{ {code}; done('done'); }} catch (error) {{ done(error.name); }} }}"
        assert page.evaluate(f"new Promise((done) => setTimeout({attempt}))") in ("TypeError", "EvalError"), code
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    frame = """new Promise((done) => {
        const frame = document.createElement("iframe");
        frame.src = "/";
        frame.onload = () => done(!frame.contentDocument?.title);
        document.body.append(frame);
    })"""
    assert page.evaluate(frame) is True
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in error for error in tab.errors)
    tab.errors.clear()
