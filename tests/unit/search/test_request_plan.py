from dataclasses import replace
from typing import Any

import pytest

from shoal.errors import InvalidArgument
from shoal.records import SearchRequest
from shoal.search.request_plan import FilterTrees, RequestPlan
from shoal.search.served_version import ServedVersion
from shoal.search.trace import SearchTrace
from shoal.testing.fakes import serve_settings, served_version

REQUEST = SearchRequest(query="fish", top_k=12, top_n=5, rerank=True, deadline=0)
BOTH = served_version("v1", [3, 4], {"number": "integer"}, lexical=True, late=True)


def resolve(
    version: ServedVersion = BOTH, has_reranker: bool = True, settings: Any = None, **changes: Any
) -> RequestPlan:
    request = replace(REQUEST, **changes)
    return RequestPlan.resolve(request, version, settings or serve_settings(), has_reranker=has_reranker)


@pytest.mark.parametrize(
    ("rerank", "has_reranker", "late", "shortlist", "expected"),
    [
        (False, True, True, 6, "none"),
        (True, False, True, 6, "none"),
        (True, True, False, 6, "reader"),
        (True, True, True, None, "late"),
        (True, True, False, None, "reader"),
        ("read", True, True, None, "reader"),
        ("read", True, True, 6, "shortlist"),
        ("read", False, True, None, "none"),
        (True, True, True, 6, "shortlist"),
        (True, True, True, 12, "reader"),
        ("late", False, True, 6, "late"),
    ],
)
def test_the_second_stage(rerank: Any, has_reranker: bool, late: bool, shortlist: int | None, expected: str) -> None:
    settings = serve_settings(shortlist=shortlist, window=20)
    plan = resolve(served_version("v1", [1], late=late), has_reranker, settings, rerank=rerank)
    assert plan.second_stage == expected
    assert plan.depth == plan.window == (5 if expected == "none" else 12)
    assert plan.needs_tokens is (expected in ("late", "shortlist"))


@pytest.mark.parametrize(
    "settings", [{"stored_tokens": False}, {"reranker": "overlap"}, {"reranker": "/trained/folder"}]
)
def test_stored_tokens_stand_for_the_default_reranker_alone(settings: dict[str, Any]) -> None:
    assert resolve(settings=serve_settings(**settings), rerank=True).second_stage == "reader"
    assert resolve(settings=serve_settings(**settings), rerank="late").second_stage == "late"


def test_several_retrievers_look_at_a_window_at_least() -> None:
    plan = resolve(settings=serve_settings(window=20), mode="hybrid")
    assert (plan.depth, plan.window, plan.retrievers) == (12, 20, ("dense", "lexical"))
    assert resolve(settings=serve_settings(window=20), mode="lexical").window == 12


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"mode": "hybrid"}, "mode"), ({"rerank": "late"}, "rerank"), ({"filter": {"number": 1}}, "filter.number")],
)
def test_what_a_version_lacks_is_refused(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        resolve(served_version("v1", [1]), **changes)
    assert refused.value.param == param
    resolve(**changes)


def test_a_filter_is_parsed_once_for_a_version() -> None:
    trees, document = FilterTrees(), {"number": {"$lt": 3}}
    first, again = (trees.parse(document, BOTH, serve_settings()) for _ in range(2))
    assert first is again is not None
    with pytest.raises(InvalidArgument):
        trees.parse(document, served_version("v2", [1]), serve_settings())


def test_a_trace_adds_up_the_blocks_of_a_stage_and_names_missing_shards_first() -> None:
    moments = iter([1.0, 3.0, 5.0, 6.0, 10.0])
    trace = SearchTrace(lambda: next(moments), arrived=0.0)
    for _ in range(2):
        with trace.stage("rerank"):
            pass
    trace.add("queue", 0.5)
    timings = trace.timings()
    assert (timings.rerank, timings.queue, timings.fetch, timings.total) == (3000, 500, 0, 10_000)
    assert trace.degradations(3) == {}
    trace.degrade("vectors", "some vectors are missing")
    trace.missing[1] = "deadline"
    assert list(trace.degradations(3).items()) == [
        ("shards", "1 of 3 shards is missing (shard 1: deadline)"),
        ("vectors", "some vectors are missing"),
    ]
