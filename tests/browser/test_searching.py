"""What a person does on the page: search, filter, walk through both stages, take a search along as code."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from shoal.records import Passage
from tests.browser.conftest import Tab, animals, served_index

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect

QUERY = "the black otter n8"


def answer_over_http(url: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{url}/v1/search", json={"query": QUERY, **body}).json()
    return answer


def shown(tab: Tab) -> list[str]:
    """Ids of the results, in their order."""
    expect(tab.page.locator("body")).not_to_have_attribute("aria-busy", "true")
    ids: list[str] = tab.page.locator(".two li.result").evaluate_all("rows => rows.map((row) => row.dataset.id)")
    return ids


def ask(tab: Tab, url: str, query: str = QUERY, **state: str) -> None:
    tab.page.goto(f"{url}/#" + "&".join(f"{name}={quote(value)}" for name, value in {"q": query, **state}.items()))
    expect(tab.page.locator(".two li.result").first).to_be_visible()


def test_both_stages_of_an_answer_stand_side_by_side(tab: Tab, url: str) -> None:
    page = tab.page
    page.goto(url)
    expect(page.locator("#index")).to_contain_text("40 passages in 2 shards")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(
        "10 passages of 25 candidates, found by meaning and words, reranked"
    )
    expected = answer_over_http(url, explain=True)
    assert shown(tab) == [result["id"] for result in expected["results"]]
    stage_one = page.locator(".one li.candidate")
    assert stage_one.evaluate_all("rows => rows.map((row) => row.dataset.id)") == [
        candidate["id"] for candidate in expected["explain"]["candidates"]
    ]
    # Every candidate gets a name, also where it is no result and its text came in a second answer.
    expect(page.locator(".one .name.id")).to_have_count(0)
    names = {passage.id: passage.title or passage.text for passage in animals("of-v2")}
    for row in stage_one.all():
        assert row.locator(".name").text_content() == names[row.get_attribute("data-id")]
    for result in expected["results"]:
        row = page.locator(f'.two li[data-id="{result["id"]}"]')
        assert row.locator("p.text").text_content() == result["text"]
        assert f"{result['rerank_score']:.3f}" in row.locator(".scores").text_content()
        assert f"place {result['retrieval_rank']} in stage one" in row.locator(".place").text_content()
    assert re.search(r"encode .* ms", page.locator(".times ul").text_content())
    assert "#q=the+black+otter+n8" in page.url
    before = shown(tab)
    page.reload()
    expect(page.locator(".two li.result")).to_have_count(10)
    assert shown(tab) == before


@pytest.mark.parametrize("width", [1280, 700, 360])
def test_lines_join_the_old_and_the_new_place(tab: Tab, url: str, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 800})
    ask(tab, url, results="6")
    expect(tab.page.locator(".lines path")).to_have_count(6)
    ends = tab.page.evaluate(
        """() => [...document.querySelectorAll(".lines path")].map((path) => {
             const box = document.querySelector(".stages").getBoundingClientRect();
             const middle = (element) => {
               const place = element.getBoundingClientRect();
               return place.top - box.top + place.height / 2;
             };
             const at = (part) => path.getPointAtLength(part * path.getTotalLength()).y;
             const row = (stage) => document.querySelector(`.${stage} li[data-id="${path.dataset.id}"]`);
             const [button, rank] = [row("one").querySelector("button"), row("two").querySelector(".rank")];
             return [at(0) - middle(button), at(1) - middle(rank)];
           })"""
    )
    assert all(abs(distance) < 1 for pair in ends for distance in pair), ends
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_filter_by_every_type_of_field(tab: Tab, url: str) -> None:
    ask(tab, url, results="40", depth="40")
    page = tab.page
    page.click("#filter-toggle")
    numbers = {passage.id: passage.metadata for passage in animals("")}

    def check(filter_: dict[str, Any], chip: str) -> None:
        expect(page.locator("#chips li")).to_have_count(1)
        assert page.locator("#chips li").text_content().startswith(chip)
        expected = answer_over_http(url, top_k=40, top_n=40, filter=filter_)
        expect(page.locator(".two li.result")).to_have_count(len(expected["results"]))
        assert tab.searches()[-1]["filter"] == filter_
        assert shown(tab) == [result["id"] for result in expected["results"]]
        assert 0 < len(expected["results"]) < len(numbers)
        page.locator("#chips button").click()
        expect(page.locator(".two li.result")).to_have_count(len(numbers))
        expect(page.locator("#query")).to_be_focused()

    page.get_by_label("colour is one of").fill("red, blue")
    page.keyboard.press("Tab")
    check({"colour": {"$in": ["red", "blue"]}}, "colour red or blue")
    page.get_by_label("tags is one of").fill('"wet, cold", otter')
    page.keyboard.press("Tab")
    expect(page.locator("#chips")).to_contain_text("wet, cold or otter")
    page.get_by_label("tags is one of").fill("otter")
    page.keyboard.press("Tab")
    check({"tags": "otter"}, "tags otter")
    page.get_by_label("number at least").fill("8")
    page.get_by_label("number at least").blur()
    check({"number": {"$gte": 8}}, "number ≥ 8")
    page.get_by_label("weight at most").fill("2.5")
    page.get_by_label("weight at most").blur()
    check({"weight": {"$lte": 2.5}}, "weight ≤ 2.5")
    page.get_by_label("seen to").fill("2012-06-15")
    page.get_by_label("seen to").blur()
    check({"seen": {"$lte": "2012-06-15T23:59:59.999999Z"}}, "seen ≤ 2012-06-15")
    page.get_by_role("combobox", name="tame").select_option("false")
    check({"tame": False}, "tame false")


def test_values_are_offered_with_their_counts_and_chosen_with_a_press(tab: Tab, url: str) -> None:
    ask(tab, url, filter='{"number": {"$lte": 9}}')
    page = tab.page
    page.click("#filter-toggle")
    values = page.get_by_role("list", name="Values of colour").get_by_role("button")
    expect(values).to_have_text([f"{colour}2" for colour in sorted(["red", "green", "blue", "black", "white"])])
    values.filter(has_text="red").click()
    expect(page.locator(".two li.result")).to_have_count(2)
    expect(values.filter(has_text="red")).to_have_attribute("aria-pressed", "true")
    expect(values.filter(has_text="red")).to_be_focused()
    values.filter(has_text="blue").click()
    expect(page.locator(".two li.result")).to_have_count(4)
    assert tab.searches()[-1]["filter"]["colour"] == {"$in": ["red", "blue"]}
    values.filter(has_text="red").click()
    expect(page.locator("#chips")).to_contain_text("colour blue")
    wet = page.get_by_role("list", name="Values of tags").get_by_role("button", name="wet, cold")
    wet.click()
    expect(wet).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".two li.result")).to_have_count(2)
    assert tab.searches()[-1]["filter"]["tags"] == "wet, cold"


def test_a_filter_that_no_input_can_say_comes_with_a_link(tab: Tab, url: str) -> None:
    filter_ = {"number": {"$lte": 30}, "$or": [{"colour": "red"}, {"colour": {"$ne": "blue"}}]}
    ask(tab, url, filter='{"number": {"$lte": 30}, "$or": [{"colour": "red"}, {"colour": {"$ne": "blue"}}]}')
    assert shown(tab) == [result["id"] for result in answer_over_http(url, filter=filter_)["results"]]
    expect(tab.page.locator("#chips li")).to_have_count(2)
    tab.page.locator("#chips button", has_text="$or").click()
    expect(tab.page.locator("#chips li")).to_have_count(1)
    assert shown(tab) == [result["id"] for result in answer_over_http(url, filter={"number": {"$lte": 30}})["results"]]


def test_nothing_found_leads_on(tab: Tab, url: str) -> None:
    page = tab.page
    page.goto(f'{url}/#q=fish&filter={{"number": {{"$gte": 1000}}}}')
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    expect(page.locator("#answer")).to_contain_text("No passage fulfils the filter.")
    expect(page.locator("#status")).to_have_text("No passage was found.")
    page.get_by_role("button", name="Search without the filter").click()
    expect(page.locator(".two li.result")).to_have_count(10)
    page.locator("#mode").select_option("lexical")
    page.fill("#query", "zzz")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_contain_text("No passage holds a word of the query")


def test_what_is_chosen_is_what_is_asked(tab: Tab, url: str) -> None:
    ask(tab, url)
    page = tab.page
    assert tab.searches()[-1] == {"query": QUERY, "explain": True, "highlight": True}
    page.locator("#mode").select_option("lexical")
    expect(page.locator("#status")).to_contain_text("found by words")
    page.fill("#depth", "12")
    page.locator("#depth").blur()
    expect(page.locator(".one li.candidate")).to_have_count(12)
    page.fill("#count", "4")
    page.locator("#count").blur()
    expect(page.locator(".two li.result")).to_have_count(4)
    page.locator("#rerank").select_option("late")
    expect(page.locator("#status")).to_contain_text("reranked by late")
    assert tab.searches()[-1] == {
        "query": QUERY, "explain": True, "highlight": True,
        "mode": "lexical", "top_k": 12, "top_n": 4, "rerank": "late",
    }  # fmt: skip
    page.locator("#rerank").select_option("off")
    expect(page.locator("#status")).to_contain_text("not reranked")
    page.go_back()
    expect(page.locator("#status")).to_contain_text("reranked by late")
    assert page.locator("#rerank").input_value() == "late"


def test_the_keyboard_reaches_everything(tab: Tab, url: str) -> None:
    ask(tab, url)
    page, ids = tab.page, shown(tab)
    focused = "document.activeElement.closest('li')?.dataset.id ?? document.activeElement.id"
    page.locator("#go").focus()
    page.keyboard.press("/")
    assert page.evaluate(focused) == "query"
    page.keyboard.type(QUERY)  # `/` has marked what was there
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == ids[0]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == ids[1]
    expect(page.locator(".lines .lit")).to_have_count(1)
    page.keyboard.press("Enter")
    button = page.locator(".two h3 button").nth(1)
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".more").nth(1)).to_contain_text("by words")
    expect(page.locator(".lines .lit")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("Boolean(document.activeElement.closest('.one'))")
    assert page.evaluate(focused) == ids[1]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(button).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "query"
    outline = page.locator("#go").evaluate("go => { go.focus(); return getComputedStyle(go).outlineStyle; }")
    page.keyboard.press("Tab")
    assert outline == "solid" or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_candidate_that_fell_out_can_be_read(tab: Tab, url: str) -> None:
    ask(tab, url, results="3")
    ids = set(shown(tab))
    row = next(row for row in tab.page.locator(".one li.candidate").all() if row.get_attribute("data-id") not in ids)
    text = {passage.id: passage.text for passage in animals("of-v2")}[row.get_attribute("data-id")]
    expect(row.locator("p.text")).to_be_hidden()
    row.locator("button").click()
    expect(row.locator("p.text")).to_have_text(text)


def rivers(marker: str) -> list[Passage]:
    """Passages of which each has one sentence about otters, at another place and among characters beyond 16 bits."""
    filler = "A \U0001f30a river runs there, over stones. "
    return [Passage(f"r{n}", filler * n + f"Otters swim {marker}, \U0001f9a6 and well. " + filler) for n in range(5)]


def test_the_best_sentence_is_marked(tab: Tab, tmp_path: Path) -> None:
    with served_index(tmp_path, rivers) as url:
        ask(tab, url, "where do otters swim")
        rows = tab.page.locator(".two li.result").all()
        assert len(rows) == 5
        texts = {passage.id: passage.text for passage in rivers("of-v2")}
        for row in rows:
            id_ = row.get_attribute("data-id")
            assert row.locator("mark").text_content() == "Otters swim of-v2, \U0001f9a6 and well."
            assert row.locator("p.text").text_content() == texts[id_]
            row.scroll_into_view_if_needed()
            expect(row.locator("mark")).to_be_in_viewport()  # also where the text is cut after two lines
            before = row.locator(".lead")
            expect(before).to_be_visible(visible=0 < int(id_[1:]) < 3)
            row.locator("h3 button").click()
            expect(before).to_be_visible(visible=int(id_[1:]) > 0)


def manual(marker: str) -> list[Passage]:
    """A page of a manual, of which headings in lines of their own come first."""
    text = f"2 Descaling\n2.1 Before you begin\nEmpty the tray.\nOtters swim {marker} and well."
    return [Passage("m#1", text, metadata={"_page": 3})]


def test_the_best_sentence_is_seen_behind_short_lines(tab: Tab, tmp_path: Path) -> None:
    with served_index(tmp_path, manual) as url:
        ask(tab, url, "where do otters swim")
        row = tab.page.locator(".two li.result")
        text, mark = (row.locator(part).bounding_box() for part in ("p.text", "mark"))
        assert mark["y"] + mark["height"] <= text["y"] + text["height"] + 2  # not cut off with the third line
        expect(row.locator("p.meta")).to_have_text("page 3")


QUOTES = 'it\'s "the" $HOME `otter` \\ n8 \u2028 \U0001f9a6'


def test_a_search_as_code_gives_the_same_answer(tab: Tab, url: str) -> None:
    filter_ = '{"tame": true, "tags": {"$in": ["o\'tter", "wet, cold"]}}'
    ask(tab, url, query=QUOTES, filter=filter_, results="5", rerank="off")
    tab.page.get_by_role("button", name="Copy as code").click()
    curl, python = tab.page.locator("#dialog pre").all_text_contents()
    answer = httpx.Response(200, content=subprocess.run(["bash", "-c", curl], capture_output=True, check=True).stdout)
    assert [result["id"] for result in answer.json()["results"]] == shown(tab)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(python, "copied", "exec"), {})
    texts = [result["text"] for result in answer.json()["results"]]
    assert [line.partition(" ")[2] for line in printed.getvalue().splitlines()] == texts
    assert sys.modules["shoal"].Client is not None
    tab.page.keyboard.press("Escape")
    expect(tab.page.locator("#dialog")).to_be_hidden()


def test_it_works_below_a_path_of_a_proxy(tab: Tab, url: str) -> None:
    """The proxy is a route of the browser: what it asks below /shoal/ goes to the server without that."""

    def forward(route: Any) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/shoal/", "/")))

    tab.page.route("**/shoal/**", forward)
    ask(tab, f"{url}/shoal")
    assert len(shown(tab)) == 10
    assert [request.url for request in tab.requests if not request.url.startswith(f"{url}/shoal/")] == []
