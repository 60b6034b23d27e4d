"""Facets against counting every passage: over several shards, filtered, with lists, numbers and timestamps."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.errors import InvalidArgument, Unavailable
from shoal.records import AnswerShape, Facet, FacetCount
from shoal.search.facets import shown_value
from shoal.testing.fakes import served_version, virtual_time
from tests.support.filtering import TYPES, documents, matches
from tests.support.search_system import SIZES, System, request
from tests.support.shaping import column_value, corpus, opened

CORPUS = corpus()


@pytest.fixture(scope="module", params=["built", "written"])
def index(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[shoal.Index]:
    with opened(tmp_path_factory.mktemp("facets"), request.param == "written") as index:
        yield index


def counted(field: str, condition: dict[str, Any]) -> Counter[Any]:
    """How many passages have each value, a passage with a list once for each of its elements."""
    counts: Counter[Any] = Counter()
    for passage in CORPUS:
        if field in passage.metadata and matches(condition, dict(passage.metadata)):
            value = passage.metadata[field]
            counts.update({column_value(field, one) for one in (value if isinstance(value, list) else [value])})
    return counts


@given(condition=documents(), fields=st.lists(st.sampled_from(sorted(TYPES)), min_size=1, unique=True))
def test_facets_are_the_counts_of_all_that_the_filter_lets_through(
    index: shoal.Index, condition: dict[str, Any], fields: list[str]
) -> None:
    answer = index.search("fish", top_n=1, filter=condition, facets=fields, mode="dense")
    assert answer.facets is not None
    assert list(answer.facets) == fields
    for field in fields:
        shown = [(column_value(field, entry.value), entry.count) for entry in answer.facets[field]]
        assert shown == sorted(counted(field, condition).items(), key=lambda entry: (-entry[1], entry[0]))[:10]
    assert answer.warnings in ([], ["no passage fulfils the filter"])


@pytest.mark.parametrize("field", sorted(TYPES))
def test_as_many_values_are_shown_as_were_asked_for_and_each_is_a_filter(index: shoal.Index, field: str) -> None:
    everything = counted(field, {})
    for limit in (1, 3, 100):
        answer = index.search("fish", facets=[{"field": field, "limit": limit}], mode="lexical")
        assert answer.facets is not None
        assert len(answer.facets[field]) == min(limit, len(everything))
    for entry in answer.facets[field]:
        narrowed = index.search("fish", filter={field: entry.value}, facets=[field], explain=True, mode="dense").explain
        assert narrowed is not None
        assert sum(shard["matches"] for shard in narrowed["shards"]) == entry.count


def test_each_of_several_queries_has_the_facets(index: shoal.Index) -> None:
    answers = index.search(["fish", "otter"], facets=["lang"], filter={"ok": True})
    assert answers[0].facets == answers[1].facets
    assert index.search("fish").facets is None


def test_a_field_with_too_many_values_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with opened(tmp_path, max_facet_values=3) as index:
        answer = index.search("fish", facets=["lang", "ok"])
        assert answer.facets is not None
        assert list(answer.facets) == ["ok"]
        assert answer.warnings == [
            "lang has more than 3 values, too many to count; filter by it, or raise --max-facet-values"
        ]
        # What a filter leaves of them is counted.
        narrow = index.search("fish", facets=["lang"], filter={"lang": {"$in": ["en", "de", "EN"]}})
        assert narrow.facets is not None
        assert {entry.value for entry in narrow.facets["lang"]} == {"en", "de", "EN"}


@pytest.mark.parametrize(
    ("facets", "param", "problem"),
    [
        (["unknown"], "facets[0]", "no such field"),
        (["lang", "lang"], "facets[1]", "twice"),
        ([{"field": "lang", "limit": 0}], "facets[0].limit", "greater than or equal to 1"),
        ([{"field": "lang", "limit": 5000}], "facets[0].limit", "less than or equal to 1000"),
        ([{"field": "lang", "size": 5}], "facets[0].size", "not a known field"),
        ([7], "facets[0]", "the name of a field, or an object"),
        ("lang", "facets", "list"),
        (["lang"] * 17, "facets", "at most 16"),
    ],
)
def test_facets_that_cannot_be_counted_are_refused(index: shoal.Index, facets: Any, param: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        index.search("fish", facets=facets)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1, "1970-01-01T00:00:00.000001Z"), (-62135600400000000, "0000-12-31T23:00:00Z")],
)
def test_timestamps_are_shown_in_utc(microseconds: int, text: str) -> None:
    assert shown_value(microseconds, "timestamp") == text


@virtual_time
async def test_what_a_silent_shard_would_count_is_missing_and_said_so() -> None:
    system = System()
    system.pipeline.switch(served_version("v1", SIZES, fields={"lang": "string"}))
    for shard in system.shards:
        shard.answer = lambda question: [{"en": 2, "de": 1}]
    system.shards[1].lookup_behaviour.errors = [Unavailable("gone"), Unavailable("gone")]
    answer = await system.pipeline.search(request(shape=AnswerShape(facets=(Facet("lang", 10),))))
    assert answer.facets == {"lang": [FacetCount("en", 4), FacetCount("de", 2)]}
    assert answer.degradations == ("shards", "facets")
    assert answer.degraded is not None
    assert "the facets lack what is in other shards (shard 1: unreachable)" in answer.degraded
    assert len(answer.results) == 5


@virtual_time
async def test_searches_without_facets_ask_nothing_more() -> None:
    system = System()
    await system.pipeline.search(request())
    assert [shard.questions for shard in system.shards] == [[], [], []]
