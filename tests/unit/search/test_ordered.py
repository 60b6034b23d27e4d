"""Passages in the order of a field against sorting all of them: over several shards, filtered, page by page."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shoal.records import AnswerShape, OrderBy
from shoal.search.pages import Cursor
from shoal.shard.order import OrderedRow
from shoal.testing.fakes import served_version, virtual_time
from tests.support.filtering import documents, matches
from tests.support.search_system import SIZES, System, request
from tests.support.shaping import COUNT, column_value, corpus, opened

CORPUS = corpus()


@pytest.fixture(scope="module", params=["built", "written"])
def index(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[shoal.Index]:
    with opened(tmp_path_factory.mktemp("ordered"), request.param == "written") as index:
        yield index


def ordered(field: str, condition: dict[str, Any], descending: bool) -> list[str]:
    """All ids, those without the field last; equal values by id."""
    chosen = sorted((p for p in CORPUS if matches(condition, dict(p.metadata))), key=lambda passage: passage.id)
    having = [passage for passage in chosen if field in passage.metadata]
    having.sort(key=lambda passage: column_value(field, passage.metadata[field]), reverse=descending)
    return [passage.id for passage in [*having, *(p for p in chosen if field not in p.metadata)]]


@given(
    field=st.sampled_from(["at", "lang", "ok", "price", "year"]),
    condition=documents(),
    descending=st.booleans(),
    sizes=st.lists(st.integers(30, 90), min_size=1, max_size=3),
)
def test_pages_behind_each_other_are_all_that_the_filter_lets_through_by_the_field(
    index: shoal.Index, field: str, condition: dict[str, Any], descending: bool, sizes: list[int]
) -> None:
    expected = ordered(field, condition, descending)
    ids: list[str] = []
    after: dict[str, Any] = {}
    for turn in range(COUNT + 1):
        answer = index.search(
            "fish",
            order_by={"field": field, "descending": descending},
            filter=condition,
            top_n=sizes[turn % len(sizes)],
            **after,
        )
        assert [result.retrieval_rank for result in answer.results] == [
            len(ids) + place for place in range(1, len(answer.results) + 1)
        ]
        ids += [result.id for result in answer.results]
        if answer.next is None:
            break
        after = {"after": answer.next}
    assert ids == expected
    assert answer.warnings == ([] if expected else ["no passage fulfils the filter"])
    assert not answer.reranked
    assert answer.timings_ms["encode"] == 0


@given(condition=documents(), size=st.integers(30, 90))
def test_pages_by_id_are_all_that_the_filter_lets_through(
    index: shoal.Index, condition: dict[str, Any], size: int
) -> None:
    asked: dict[str, Any] = {"order_by": {"field": "$id"}, "filter": condition, "top_n": size}
    answer = index.search("fish", **asked)
    ids = [result.id for result in answer.results]
    while answer.next is not None:
        answer = index.search("fish", **asked, after=answer.next)
        ids += [result.id for result in answer.results]
    assert ids == sorted(passage.id for passage in CORPUS if matches(condition, dict(passage.metadata)))


def test_a_place_among_the_ids_is_the_same_in_every_version(index: shoal.Index) -> None:
    asked: dict[str, Any] = {"order_by": {"field": "$id"}, "top_n": 10}
    first = index.search("fish", **asked)
    assert first.next is not None
    cursor = Cursor.read(first.next)
    assert (cursor.key, cursor.id) == (None, first.results[-1].id)
    older = Cursor("another-version", cursor.request, cursor.key, cursor.id, cursor.count).write()
    expected = index.search("fish", **asked, after=first.next).results
    assert [result.id for result in index.search("fish", **asked, after=older).results] == [r.id for r in expected]


def test_what_is_counted_and_pointed_out_goes_with_an_order(index: shoal.Index) -> None:
    answer = index.search("otter", order_by={"field": "year"}, filter={"lang": "en"}, facets=["year"], highlight=True)
    assert answer.facets is not None
    assert answer.facets["year"]
    assert [result.text for result in answer.results if result.highlight] == [
        result.text for result in answer.results if "otter" in (result.text or "").split()
    ]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"order_by": {"field": "tags"}}, "order_by.field"),
        ({"order_by": {"field": "unknown"}}, "order_by.field"),
        ({"order_by": {"field": "$id", "descending": True}}, "order_by.descending"),
        ({"order_by": {"field": "year", "descending": "no"}}, "order_by.descending"),
        ({"order_by": "year"}, "order_by"),
        ({"order_by": {"field": "year"}, "rerank": True}, "rerank"),
        ({"order_by": {"field": "year"}, "diversity": 0.1}, "diversity"),
        ({"order_by": {"field": "year"}, "collapse": True}, "collapse"),
        ({"order_by": {"field": "year"}, "min_score": 0.1}, "min_score"),
        ({"order_by": {"field": "year"}, "group_by": {"field": "lang"}}, "group_by"),
    ],
)
def test_what_else_would_put_passages_is_refused(index: shoal.Index, options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        index.search("fish", **options)
    assert refused.value.param == param


def test_a_cursor_of_scores_is_none_of_an_order(index: shoal.Index) -> None:
    by_score = index.search("fish", rerank=False, mode="dense", top_n=5).next
    by_field = index.search("fish", order_by={"field": "year"}, top_n=5).next
    for options in ({"order_by": {"field": "year"}, "after": by_score}, {"after": by_field, "rerank": False}):
        with pytest.raises(InvalidArgument) as refused:
            index.search("fish", mode="dense", **options)  # type: ignore[arg-type]
        assert refused.value.param == "after"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("year", ["2020", 1.5, True, "\ud800"]),
        ("price", ["1.5", True]),
        ("lang", [1, 1.5, False]),
        ("ok", [1, "true"]),
        ("at", ["2020-01-01", 1.5]),
    ],
)
def test_what_a_cursor_cannot_hold_reaches_no_shard(index: shoal.Index, field: str, wrong: list[Any]) -> None:
    """Who makes a cursor up would make every shard fail, and a server takes shards that fail for broken."""
    options: dict[str, Any] = {"order_by": {"field": field}, "top_n": 5}
    after = index.search("fish", **options).next
    assert after is not None
    cursor = Cursor.read(after)
    for key in [*wrong, [1], {}, float("nan")]:
        with pytest.raises(InvalidArgument) as refused:
            index.search("fish", after=_written([cursor.version, cursor.request, key, cursor.id, 5]), **options)
        assert refused.value.param == "after"
    with pytest.raises(InvalidArgument):
        index.search("fish", after=_written([cursor.version, cursor.request, cursor.key, "\udfff", 5]), **options)
    assert index.search("fish", after=_written([cursor.version, cursor.request, None, "", 5]), **options).results


def _written(parts: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@virtual_time
async def test_what_silent_shards_hold_is_missing_and_none_at_all_is_an_error() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, fields={"year": "integer"}))
    for number, shard in enumerate(system.shards):
        shard.answer = lambda question, number=number: [  # type: ignore[misc]
            OrderedRow(10 * row + number, system.shards[number].passages[row].id, row) for row in range(5)
        ]
    shape = AnswerShape(order_by=OrderBy("year", False))
    system.shards[1].lookup_behaviour.errors = [Unavailable("gone")] * 2
    answer = await system.pipeline.search(request(shape=shape))
    assert [result.id for result in answer.results] == ["p0000", "p0030", "p0001", "p0031", "p0002"]
    assert answer.degradations == ("shards",)
    for error in (Unavailable, DeadlineExceeded):
        for shard in system.shards:
            shard.lookup_behaviour.errors = [error("gone")] * 2
        with pytest.raises(error):
            await system.pipeline.search(request(shape=shape))
