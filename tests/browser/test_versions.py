"""The index on the page: what it is, which version is served, and who may change that."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.serving import keys
from tests.browser.conftest import Tab, served_index

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect


def version_of(url: str) -> str:
    version: str = httpx.get(f"{url}/v1/index").json()["version"]
    return version


def test_versions_change_after_a_question_and_come_back(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    with served_index(tmp_path) as url:
        page.goto(f"{url}/#q=black otter")
        expect(page.locator(".two p.text").first).to_contain_text("of-v2")
        page.click("#index-toggle")
        page.get_by_role("button", name="Roll back").click()
        expect(page.locator("#dialog")).to_contain_text("The server answers from v1 instead of v2, for everyone")
        page.keyboard.press("Escape")
        assert version_of(url) == "v2"
        page.get_by_role("button", name="Roll back to the version before").click()
        page.locator("#dialog").get_by_role("button", name="Roll back").click()
        expect(page.locator("#change-status")).to_have_text("v1 is served now.")
        expect(page.locator(".two p.text").first).to_contain_text("of-v1")
        expect(page.locator("#index .facts").first).to_contain_text("v1")
        assert version_of(url) == "v1"
        page.get_by_label("Serve another version", exact=True).fill("v9")
        page.keyboard.press("Enter")
        page.locator("#dialog").get_by_role("button", name="Serve it").click()
        expect(page.locator("#change-status")).to_contain_text("Nothing has changed:")
        expect(page.locator("#change-status")).to_contain_text("(request ")
        assert version_of(url) == "v1"
        page.get_by_label("Serve another version", exact=True).fill("v2")
        page.keyboard.press("Enter")
        page.locator("#dialog").get_by_role("button", name="Serve it").click()
        expect(page.locator("#change-status")).to_have_text("v2 is served now.")
        expect(page.locator(".two p.text").first).to_contain_text("of-v2")


def test_a_version_is_chosen_from_the_list(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    with served_index(tmp_path) as url:
        page.goto(f"{url}/#q=black otter")
        expect(page.locator(".two p.text").first).to_contain_text("of-v2")
        page.click("#index-toggle")
        rows = page.locator("#version-list tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text("served")
        expect(rows.nth(0).get_by_role("button")).to_have_count(0)
        expect(rows.nth(1)).to_contain_text("before")
        page.get_by_role("button", name="Serve v1", exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_contain_text("The server answers from v1 instead of v2, for everyone")
        page.locator("#dialog").get_by_role("button", name="Serve it").click()
        expect(page.locator("#change-status")).to_have_text("v1 is served now.")
        expect(page.locator("#version-list tr.served")).to_contain_text("v1")
        expect(page.get_by_role("button", name="Serve v2", exact=True)).to_be_visible()
        expect(page.locator(".two p.text").first).to_contain_text("of-v1")
        assert version_of(url) == "v1"


def test_what_was_written_since_is_shown_with_the_next_answer(tab: Tab, url: str) -> None:
    """The description tells of writes that the answer has seen: an index of these tests cannot be written to."""
    page, state = tab.page, {"position": 7, "rows": 2}

    def describe(route: Any) -> None:
        live = {"complete_to": 5, "passages": 41, "dead": 1, "bytes": 2048, "oldest_s": 180.5, **state}
        route.fulfill(json={**route.fetch().json(), "passages": 40 + state["rows"], "live": live})

    page.route("**/v1/index", describe)
    answers = "**/v1/search"
    page.route(answers, lambda route: route.fulfill(json={**route.fetch().json(), "position": state["position"]}))
    page.goto(url)
    expect(page.locator("#live")).to_contain_text("all writes up to 7")
    expect(page.locator("#live")).to_contain_text("2 passages, 2.0 KiB, the first 3 minutes ago")
    state |= {"position": 8, "rows": 3}
    page.fill("#query", "black otter")
    page.click("#go")
    expect(page.locator("#live")).to_contain_text("all writes up to 8")
    expect(page.locator("#index-toggle")).to_have_text("43 passages")


def test_a_version_that_another_has_changed_is_noticed_with_the_next_answer(tab: Tab, tmp_path: Path) -> None:
    page = tab.page
    with served_index(tmp_path) as url:
        page.goto(f"{url}/#q=black otter")
        page.click("#index-toggle")
        expect(page.locator("#index .facts").first).to_contain_text("v2")
        httpx.post(f"{url}/v1/index/activate", json={"version": "v1"}).raise_for_status()
        page.locator("#go").click()
        expect(page.locator(".two p.text").first).to_contain_text("of-v1")
        expect(page.locator("#index .facts").first).to_contain_text("v1")


def test_a_key_that_may_only_read_changes_nothing(tab: Tab, tmp_path: Path) -> None:
    reader, admin, file = keys.make(), keys.make(), tmp_path / "keys"
    file.write_text(f"{keys.line(reader, 'reader')}\n{keys.line(admin, 'operator', 'admin')}\n")
    page = tab.page
    with served_index(tmp_path, api_keys_file=str(file)) as url:
        page.goto(url)
        expect(page.locator("#index")).to_contain_text("An API key is needed", ignore_case=True)
        lists = page.locator("#version-list")
        for key, words in (
            (reader, "Nothing has changed: the API key reader may read only"),
            (admin, "v1 is served now."),
        ):
            page.click("#key-open")
            page.get_by_label("Key of this server").fill(key)
            page.keyboard.press("Enter")
            if key == reader:
                expect(lists).to_contain_text("An API key of the scope admin lists the versions")
            else:
                expect(lists.locator("tbody tr")).to_have_count(2)
            page.get_by_role("button", name="Roll back").click()
            page.locator("#dialog").get_by_role("button", name="Roll back").click()
            expect(page.locator("#change-status")).to_contain_text(words)


CURVE = [
    {"search": "nprobe=1", "recall": 0.71, "latency_ms": 0.2},
    {"search": "nprobe=8", "recall": 0.95, "latency_ms": 0.9},
    {"search": "nprobe=64", "recall": 0.99, "latency_ms": 4.5},
]


def test_recall_is_chosen_from_what_was_measured(tab: Tab, url: str) -> None:
    """The curve is put into the description of the index: measuring a real one takes an index of many passages."""
    page, asked = tab.page, list[dict[str, Any]]()

    def describe(route: Any) -> None:
        index = route.fetch().json()
        route.fulfill(json={**index, "kind": "ivf", "search": "nprobe=8", "recall_at_10": 0.95, "curve": CURVE})

    def search(route: Any) -> None:
        body = route.request.post_data_json
        asked.append(body)
        route.continue_(post_data={name: value for name, value in body.items() if name != "recall"})

    page.route("**/v1/index", describe)
    page.route("**/v1/search", search)
    page.goto(f"{url}/#q=black otter")
    expect(page.locator(".two li.result")).to_have_count(10)
    page.click("#index-toggle")
    points = page.locator(".plot .point")
    expect(points).to_have_count(3)
    expect(page.locator(".plot .tuned title")).to_have_text("nprobe=8: recall 0.950, 0.90 ms")
    points.nth(2).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#recall")).to_have_value("0.99")
    page.locator("#recall").select_option("0.71")
    expect(page).to_have_url(re.compile("recall=0.71"))
    expect(page.locator(".two li.result")).to_have_count(10)
    assert [body.get("recall") for body in asked if body.get("explain")] == [None, 0.99, 0.71]
    page.locator("#recall").select_option("")
    expect(page).to_have_url(re.compile("^((?!recall).)*$"))
