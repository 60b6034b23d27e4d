"""What is measured and logged of queries, and whether documentation and dashboard say the same."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from serve import telemetry
from serve.telemetry import METRICS, Telemetry
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, RateLimited, ShoalError, Unavailable
from shoal.records import SearchAnswer, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.system import tracing
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    corpus,
    serve_settings,
    served_version,
    virtual_time,
)
from tests.support.dashboard import SERVE_METRICS, dashboard, expressions, named
from tests.support.meters import RecordingMeter

ROOT = Path(__file__).parents[3]
STAGES = ["queue", "encode", "retrieve", "merge", "fetch", "rerank", "total"]


class Search:
    """The pipeline over two fake shards, measured."""

    def __init__(self, slow_query_ms: float = 1e9, log_queries: bool = False, **changes: Any) -> None:
        self.meter = RecordingMeter()
        self.telemetry = Telemetry(self.meter, slow_query_ms, log_queries)
        self.encoder, self.reranker = FakeEncoder(), FakeReranker()
        self.shards = [FakeShard(corpus(20)), FakeShard(corpus(30)[20:])]
        self.pipeline = SearchPipeline(
            self.encoder,
            self.shards,
            self.reranker,
            serve_settings(**changes),
            asyncio.get_running_loop().time,
            self.telemetry,
        )
        self.pipeline.switch(served_version("v1", [20, 10]))

    async def ask(self, *queries: str) -> list[SearchAnswer]:
        requests = [SearchRequest(query=query, top_k=5, top_n=5, rerank=True, deadline=10.0) for query in queries]
        answers = await self.pipeline.search_all(requests)
        self.telemetry.answered(requests, answers)
        return answers


@virtual_time
async def test_every_stage_of_an_answer_is_measured() -> None:
    search = Search(fetch_with_hits=False)
    search.encoder.behaviour.delay = 0.1
    search.shards[1].behaviour.delay = 0.2
    search.shards[0].fetch_behaviour.delay = 0.3
    search.reranker.behaviour.delay = 0.4
    await search.ask("fish")
    meter = search.meter
    spent = {stage: meter.observed(telemetry.STAGES, stage=stage) for stage in STAGES}
    assert spent == {
        stage: [pytest.approx(seconds)] for stage, seconds in zip(STAGES, (0, 0.1, 0.2, 0, 0.3, 0.4, 1.0), strict=True)
    }
    assert meter.observed(telemetry.SHARDS, shard="0") == [0]
    assert meter.observed(telemetry.SHARDS, shard="1") == [pytest.approx(0.2)]
    assert meter.counted(telemetry.QUERIES, outcome="complete") == 1
    assert meter.observed(telemetry.COVERAGE) == [1]
    assert meter.counted(telemetry.PAIRS) == 5
    assert not meter.observed(telemetry.DEGRADED)


@virtual_time
async def test_batches_and_queues_are_those_of_the_pipeline() -> None:
    search = Search()
    search.encoder.behaviour.delay = 1
    first = asyncio.ensure_future(search.ask("a"))
    await asyncio.sleep(0.5)
    rest = asyncio.ensure_future(search.ask("b", "c", "d"))
    await asyncio.sleep(0.1)
    assert search.pipeline.queues() == {"encode": 3, "retrieve": 0}
    await asyncio.gather(first, rest)
    assert search.meter.observed(telemetry.BATCHES, stage="encode") == [1, 3]
    assert search.meter.observed(telemetry.BATCHES, stage="retrieve") == [1, 1, 3, 3]
    assert search.pipeline.queues() == {"encode": 0, "retrieve": 0}


@virtual_time
async def test_what_degrades_an_answer_is_counted_by_its_reason() -> None:
    search = Search()
    search.shards[1].behaviour.errors = [ValueError("broken")]
    search.reranker.behaviour.errors = [Overloaded("full")]
    (answer,) = await search.ask("fish")
    meter = search.meter
    assert answer.degradations == ("shards", "reranker_overloaded")
    assert [meter.counted(telemetry.DEGRADED, reason=reason) for reason in answer.degradations] == [1, 1]
    assert meter.counted(telemetry.MISSING, shard="1", reason="error") == 1
    assert meter.observed(telemetry.COVERAGE) == [pytest.approx(2 / 3)]
    assert meter.counted(telemetry.QUERIES, outcome="degraded") == 1
    for reason in answer.degradations:
        assert reason in telemetry.DEGRADED.description


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidArgument("x"), "invalid"),
        (Overloaded("x"), "overloaded"),
        (RateLimited("x"), "overloaded"),
        (DeadlineExceeded("x"), "deadline"),
        (Unavailable("x"), "unavailable"),
        (ShoalError("x"), "failed"),
        (ValueError("x"), "failed"),
        (asyncio.CancelledError(), "abandoned"),
    ],
)
def test_queries_without_an_answer_are_counted_by_their_end(error: BaseException, outcome: str) -> None:
    meter = RecordingMeter()
    Telemetry(meter, 1e9, False).ended(
        [SearchRequest(query="a", top_k=1, top_n=1, rerank=False, deadline=0.0)] * 3, error, 5.0
    )
    assert meter.counted(telemetry.QUERIES, outcome=outcome) == 3
    assert outcome in telemetry.QUERIES.description


@virtual_time
async def test_a_slow_query_is_logged_with_its_stages_and_its_request() -> None:
    search = Search(slow_query_ms=500)
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    telemetry.logger.addHandler(handler)
    try:
        tracing.work_for(("abc-1",))
        await search.ask("quick")
        assert not records
        search.encoder.behaviour.delay = 0.6
        await search.ask("my secret illness")
        search.telemetry.ended(
            [SearchRequest(query="late", top_k=1, top_n=1, rerank=False, deadline=0.0)], DeadlineExceeded("late"), 900.0
        )
        search.telemetry.ended(
            [SearchRequest(query="gone", top_k=1, top_n=1, rerank=False, deadline=0.0)], asyncio.CancelledError(), 900.0
        )
    finally:
        telemetry.logger.removeHandler(handler)
    slow: Any
    slow, late = records
    assert (slow.request_id, slow.levelname) == ("abc-1", "WARNING")
    facts = slow.slow_query
    assert (facts["total_ms"], facts["encode_ms"], facts["outcome"], facts["top_k"]) == (600, 600, "complete", 5)
    assert {f"{stage}_ms" for stage in STAGES} <= set(facts)
    assert "encode_ms=600" in slow.getMessage()
    assert "secret" not in slow.getMessage() + str(facts)
    assert late.slow_query["outcome"] == "deadline"  # type: ignore[attr-defined]
    assert search.meter.counted(telemetry.SLOW) == 2


@virtual_time
async def test_the_words_of_a_query_are_logged_only_if_the_owner_says_so(caplog: pytest.LogCaptureFixture) -> None:
    search = Search(slow_query_ms=0, log_queries=True)
    with caplog.at_level(logging.WARNING, telemetry.logger.name):
        await search.ask("line\nbreak " + "x" * 500)
    (record,) = caplog.records
    assert "query='line\\nbreak xx" in record.getMessage()
    assert "x" * 201 not in record.getMessage()


@virtual_time
async def test_a_call_for_several_requests_works_for_all_of_them() -> None:
    search = Search()
    seen: list[tuple[str, ...]] = []

    async def look() -> None:
        seen.append(tracing.requests())

    search.encoder.behaviour.hook = search.shards[0].behaviour.hook = look
    search.encoder.behaviour.delay = 1

    async def ask(request: str, *queries: str) -> None:
        tracing.work_for((request,))
        await search.ask(*queries)

    first = asyncio.create_task(ask("r0", "a"))
    await asyncio.sleep(0.5)
    await asyncio.gather(first, ask("r1", "b", "c"), ask("r2", "d"))
    # One call of the encoder and one of the shard each.
    assert sorted(sorted(ids) for ids in seen) == [["r0"], ["r0"], ["r1", "r2"], ["r1", "r2"]]


def test_many_requests_make_a_label_that_ends() -> None:
    tracing.work_for(tuple(f"r{number}" for number in range(100)))
    assert tracing.label().split(",")[-2:] == ["r31", "..."]
    tracing.work_for()
    assert tracing.fields() == {}


def test_names_are_unique_and_the_documentation_lists_them_as_they_are() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    rows = re.findall(
        r"^\| `(ray_shoal_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", (ROOT / "docs/metrics.md").read_text(), re.M
    )
    assert rows == [
        (metric.exported, metric.kind, ", ".join(metric.labels) or "none", metric.description) for metric in METRICS
    ]


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_on_it() -> None:
    exported = {metric.exported: metric for metric in METRICS}
    used: set[str] = set()
    for expression in expressions():
        names = named(expression)
        assert names, expression
        assert names <= exported.keys() | set(SERVE_METRICS), expression
        used |= names
        for label in re.findall(r"by \(([^)]+)\)", expression):
            allowed = {"le", "route", "error_code"}.union(*(exported[name].labels for name in names & exported.keys()))
            assert set(label.split(", ")) <= allowed, expression
        for name in names & exported.keys():
            histogram = exported[name].kind == "histogram"
            assert (re.search(rf"{name}_(bucket|sum|count)", expression) is not None) == histogram, expression
    assert set(exported) <= used


def test_the_dashboard_is_well_formed() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
