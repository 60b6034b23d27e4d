"""Pages of an answer against the whole ranking: over several shards, filtered, dense, lexical and hybrid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.errors import InvalidArgument
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.search.pages import Cursor
from tests.support.filtering import documents
from tests.support.indexes import passages, publish
from tests.support.shaping import COUNT, opened

WINDOW = 60


@pytest.fixture(scope="module", params=["built", "written"])
def index(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[shoal.Index]:
    with opened(
        tmp_path_factory.mktemp("pages"), request.param == "written", window=WINDOW, reranker="overlap"
    ) as index:
        yield index


def pages(index: shoal.Index, query: str, sizes: list[int], **options: Any) -> list[Any]:
    """The results of all pages, of sizes in turn, until there is no next one."""
    results: list[Any] = []
    after: dict[str, str] = {}
    for turn in range(COUNT + 1):
        size = sizes[turn % len(sizes)]
        answer = index.search(query, top_n=size, top_k=size, rerank=False, **options, **after)
        assert len(answer.results) <= size
        results += answer.results
        if answer.next is None:
            return results
        after = {"after": answer.next}
    raise AssertionError("pages without end")


@given(
    query=st.sampled_from(["the black otter n8", "green snail", "the"]),
    mode=st.sampled_from(["dense", "lexical", "hybrid"]),
    condition=documents(),
    sizes=st.lists(st.integers(25, 60), min_size=1, max_size=3),
    collapse=st.booleans(),
)
def test_pages_behind_each_other_are_the_whole_ranking(
    index: shoal.Index, query: str, mode: Any, condition: dict[str, Any], sizes: list[int], collapse: bool
) -> None:
    options: Any = {"mode": mode, "filter": condition, "collapse": collapse}
    count = WINDOW if mode == "hybrid" else COUNT
    collapses = mode != "hybrid" and collapse  # whose window grows, and with it the ranking
    options["collapse"] = collapses
    whole = index.search(query, top_n=count, top_k=count, rerank=False, **options).results
    assert pages(index, query, sizes, **options) == whole


def test_the_last_page_has_no_next_one_and_pages_may_end_at_a_score(index: shoal.Index) -> None:
    options: Any = {"mode": "dense", "rerank": False}
    first = index.search("green snail", top_n=100, **options)
    least = first.results[29].score
    found = pages(index, "green snail", [8], mode="dense", min_score=least)
    assert found == [result for result in first.results if result.score >= least]
    assert index.search("green snail", top_n=COUNT + 1, top_k=COUNT + 1, **options).next is None
    assert index.search("green snail", top_n=5).next is None  # reranked


def test_pages_end_where_the_settings_say(tmp_path: Path) -> None:
    with opened(tmp_path, max_page_depth=20) as index:
        assert len(pages(index, "green snail", [8], mode="dense")) == 20


def test_a_cursor_goes_on_in_its_own_request_and_version_alone(tmp_path: Path) -> None:
    with opened(tmp_path, reranker="overlap", watch_s=600) as index:
        options: Any = {"mode": "dense", "rerank": False, "top_n": 5, "filter": {"ok": True}}
        after = index.search("fish", **options).next
        assert after is not None
        assert index.search("fish", after=after, **options | {"include": ["metadata"], "top_n": 9}).results
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"query": "otter"}, "another request"),
            ({"mode": "lexical"}, "another request"),
            ({"filter": {}}, "another request"),
            ({"min_score": 0.1}, "another request"),
            ({"rerank": True}, "rerank: false"),
            ({"group_by": {"field": "lang"}}, "group_by"),
            ({"diversity": 0.5}, "diversity"),
            ({"after": "!"}, "next"),
            ({"after": "WzFd"}, "next"),
            ({"after": Cursor("v1", "", float("nan"), "x", 1).write()}, "next"),
            ({"after": Cursor("v0", "", 1.0, "x", 1).write()}, "first page again"),
        ]
        for changes, problem in wrong:
            with pytest.raises(InvalidArgument, match=problem) as refused:
                index.search(**{"query": "fish", "after": after, **options, **changes})
            assert refused.value.param == "after"
        publish(tmp_path / "index", "v2", passages(COUNT), shards=3)
        versions.activate(Storage(str(tmp_path / "index")), "v2")
        assert index.refresh().version == "v2"
        with pytest.raises(InvalidArgument):
            index.search("fish", after=after, mode="dense", rerank=False, top_n=5)


@pytest.mark.parametrize("score", [0.1, -1.0, 3.0000000001, 1e-30])
@pytest.mark.parametrize("identity", ["a", "\u9b5a#1", 'quote"', "p" * 1024])
def test_cursors_are_read_as_they_were_written(score: float, identity: str) -> None:
    cursor = Cursor("20260131T120000000-3f9a0c41", "0f" * 12, score, identity, 120)
    assert Cursor.read(cursor.write()) == cursor
