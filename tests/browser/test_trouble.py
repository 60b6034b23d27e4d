"""What the page says where an answer is incomplete, refused or does not come, and how it keeps a key."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serve.web.api import create_api
from shoal.errors import InvalidArgument, Overloaded
from shoal.serving import keys
from shoal.settings import RunSettings
from shoal.testing.fakes import serve_settings
from tests.browser.conftest import Tab, served, served_index
from tests.support.api_server import FakeEngine

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect


@pytest.fixture
def fake() -> Iterator[tuple[FakeEngine, str]]:
    """The real pipeline over two fake shards, and the URL of a server over it."""
    settings = serve_settings()
    engines: list[FakeEngine] = []

    async def make_app() -> FastAPI:
        engines.append(FakeEngine(settings))
        return create_api(engines[0], settings)

    with served(make_app, RunSettings(index="/nowhere", drain_s=1), lambda: None) as url:
        yield engines[0], url


def test_an_incomplete_answer_says_what_is_missing(tab: Tab, fake: tuple[FakeEngine, str]) -> None:
    engine, url = fake
    engine.shards[0].behaviour.errors.append(RuntimeError("the disk is gone"))
    tab.page.goto(f"{url}/#q=fish")
    notice = tab.page.locator(".notice")
    expect(notice).to_contain_text("This answer is incomplete")
    expect(notice.locator("p")).to_have_text(
        ["1 of 2 shards answered: 75 % of the passages were searched.", "Shard 0 failed."]
    )
    expect(notice.locator(".cells i.missing")).to_have_count(1)
    expect(tab.page.locator(".two li.result")).to_have_count(10)
    tab.page.click("#index-toggle")
    expect(tab.page.locator("#shards tr.missing")).to_contain_text("error")
    tab.page.locator("#go").click()
    expect(notice).to_have_count(0)


def test_a_reranker_that_fails_leaves_the_order_of_stage_one(tab: Tab, fake: tuple[FakeEngine, str]) -> None:
    engine, url = fake
    reranker: Any = engine.pipeline
    tab.page.goto(f"{url}/#q=fish")
    expect(tab.page.locator("#status")).to_contain_text("reranked by")
    for service in vars(reranker).values():
        failing = getattr(service, "_reranker", None)
        if failing is not None:
            failing.behaviour.errors.append(RuntimeError("no memory"))
    tab.page.locator("#go").click()
    expect(tab.page.locator(".notice h2")).to_have_text("This answer is less than was asked for")
    expect(tab.page.locator("#stage-two + p")).to_have_text("not reranked: the order of stage one")


@pytest.mark.parametrize(
    ("error", "words", "help_"),
    [
        (InvalidArgument("top_k should be at most 5", param="top_k"), "top_k should be at most 5.", ""),
        (Overloaded("the server works on 48 searches already", retry_after_s=3), "The server works on", "in 3 s"),
        (RuntimeError("secret"), "the server failed; its log has the reason", ""),
    ],
    ids=["wrong", "busy", "failed"],
)
def test_a_refusal_comes_with_its_reason_and_the_id_of_the_request(
    tab: Tab, fake: tuple[FakeEngine, str], error: Exception, words: str, help_: str
) -> None:
    engine, url = fake
    engine.error = error
    with tab.page.expect_response("**/v1/search") as answered:
        tab.page.goto(f"{url}/#q=fish")
    failure = tab.page.locator(".failure")
    expect(failure).to_contain_text(words, ignore_case=True)
    expect(failure).to_contain_text(help_)
    expect(failure).to_contain_text(f"request {answered.value.headers['x-request-id']}")
    expect(failure).to_contain_text(f"status {answered.value.status}")
    assert "secret" not in tab.page.content()
    expect(tab.page.locator("#status")).to_contain_text("There is no answer")
    engine.error = None
    failure.get_by_role("button", name="Try again").click()
    expect(tab.page.locator(".two li.result")).to_have_count(10)
    expect(failure).to_have_count(0)


def test_a_server_that_is_gone_is_said_so(tab: Tab, url: str) -> None:
    page = tab.page
    page.goto(url)
    expect(page.locator("#index")).to_contain_text("40 passages")
    page.route("**/v1/search", lambda route: route.abort())
    page.fill("#query", "fish")
    page.keyboard.press("Enter")
    expect(page.locator(".failure")).to_contain_text(f"Nothing answers at {url}")
    page.unroute("**/v1/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".two li.result")).to_have_count(10)
    tab.errors = [error for error in tab.errors if "ERR_FAILED" not in error]


def test_the_last_question_wins(tab: Tab, url: str) -> None:
    page = tab.page
    held: list[Callable[[], None]] = []

    def hold(route: Any) -> None:
        if route.request.post_data_json["query"] == "first":
            held.append(route.continue_)
        else:
            route.continue_()

    page.route("**/v1/search", hold)
    page.goto(f"{url}/#q=first")
    expect(page.locator("body")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_have_text("Searching…")
    page.fill("#query", "black otter")
    page.keyboard.press("Enter")
    expect(page.locator(".two li.result")).to_have_count(10)
    assert len(held) == 1
    expect(page.locator("#query")).to_have_value("black otter")
    assert page.title() == "black otter \N{EN DASH} Shoal"
    tab.errors = [error for error in tab.errors if "ERR_ABORTED" not in error]


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(tab: Tab, tmp_path: Path) -> None:
    key, file = keys.make(), tmp_path / "keys"
    file.write_text(keys.line(key, "reader") + "\n")
    with served_index(tmp_path, api_keys_file=str(file)) as url:
        page = tab.page
        page.goto(f"{url}/#q=fish")
        expect(page.locator(".failure")).to_contain_text("An API key is needed")
        page.get_by_role("button", name="Give an API key").click()
        page.get_by_label("Key of this server").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator(".failure")).to_contain_text("this is no API key of the server", ignore_case=True)
        page.get_by_role("button", name="Give an API key").click()
        page.get_by_label("Key of this server").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator(".two li.result")).to_have_count(10)
        expect(page.locator("#index-toggle")).to_have_text("40 passages")
        page.get_by_role("button", name="Copy as code").click()
        assert all("SHOAL_API_KEY" in code for code in page.locator("#dialog pre").all_text_contents())
        page.keyboard.press("Escape")
        kept = page.evaluate(
            "[JSON.stringify(localStorage), document.cookie, location.href, document.body.innerText].join()"
        )
        assert key not in kept
        assert [request.url for request in tab.requests if key in request.url or not request.url.startswith(url)] == []
        page.reload()
        expect(page.locator(".two li.result")).to_have_count(10)
        other = page.context.new_page()
        other.goto(f"{url}/#q=fish")
        expect(other.locator(".failure")).to_contain_text("An API key is needed")
        other.close()
        page.click("#key-open")
        page.get_by_role("button", name="Forget it").click()
        expect(page.locator(".failure")).to_contain_text("An API key is needed")
        assert page.evaluate("sessionStorage.length") == 0
