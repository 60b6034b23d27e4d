"""What a server measures: its metrics, declared once, what an answer adds to them, and the log of slow queries. No Ray.

docs/metrics.md explains the metrics to people, cluster/grafana.json draws them; a test keeps both equal to METRICS.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from shoal.records import SearchAnswer, SearchRequest
from shoal.system.tracing import fields

logger = logging.getLogger("ray.serve")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Boundaries of histograms of durations, in seconds."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Boundaries of histograms of counts."""
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Boundaries of histograms of shares."""
SAMPLE_S = 1.0
"""Seconds between looks at what is no event: the lengths of queues."""
MOST_QUERY = 200
"""Characters of a query that a log line repeats."""

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Ray adds `ray_` before its name and the labels deployment, replica, application and of the node."""

    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus; a histogram's series add _bucket, _sum and _count."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


QUERIES = Metric(
    "shoal_queries",
    "counter",
    "Queries by how they ended: complete, degraded, invalid, overloaded, deadline, unavailable, failed, abandoned.",
    ("outcome",),
)
STAGES = Metric(
    "shoal_stage_seconds",
    "histogram",
    "Time that an answered query spent in a stage: queue, encode, retrieve, merge, fetch, rerank, total.",
    ("stage",),
    SECONDS,
)
SHARDS = Metric(
    "shoal_shard_seconds", "histogram", "Time of a search call to a shard, with the way.", ("shard",), SECONDS
)
MISSING = Metric(
    "shoal_missing_shards",
    "counter",
    "Answers that a shard is missing from, by reason: deadline, overloaded, unreachable, error, behind, suspended.",
    ("shard", "reason"),
)
COVERAGE = Metric(
    "shoal_coverage", "histogram", "Share of the passages that were searched for an answer.", (), FRACTIONS
)
DEGRADED = Metric(
    "shoal_degraded",
    "counter",
    "Answers that are less than what was asked for, by reason: shards, no_reranker, reranker_deadline, "
    "reranker_overloaded, reranker_unreachable, reranker_failed, not_scored, not_shortened, not_blended, "
    "texts_cut, vectors.",
    ("reason",),
)
BATCHES = Metric(
    "shoal_batch_size",
    "histogram",
    "Queries of one call, by stage: encode, retrieve, fetch, rerank; texts of one call: embed.",
    ("stage",),
    SIZES,
)
WAITING = Metric(
    "shoal_queue_length", "gauge", "Queries that wait, by what for: encode, retrieve (longest), rerank.", ("stage",)
)
PAIRS = Metric("shoal_rerank_pairs", "counter", "(query, passage) pairs that the reranker has scored.")
SLOW = Metric("shoal_slow_queries", "counter", "Queries that took longer than slow_query_ms.")
COMPUTE = Metric(
    "shoal_compute_seconds",
    "histogram",
    "Time of a call inside its replica, waiting for a thread included: encode, embed, search, fetch, score, locate, "
    "list.",
    ("call",),
    SECONDS,
)
ENCODED = Metric("shoal_encoder_queries", "counter", "Queries that the query encoder was asked for.")
REMEMBERED = Metric("shoal_encoder_cache_hits", "counter", "Of these, queries whose vector was remembered.")
SELECTED = Metric("shoal_filter_lookups", "counter", "Filters that a shard was asked for.")
SELECTIONS_REMEMBERED = Metric("shoal_filter_cache_hits", "counter", "Of these, filters whose rows were remembered.")
CLOCK_SKEW = Metric(
    "shoal_clock_skew_seconds",
    "gauge",
    "Seconds by which the clock of a machine of a service is ahead of the ingress: encoder, reranker, shard 0, ...",
    ("service",),
)
KEY_FILE = Metric(
    "shoal_key_file_problem", "gauge", "1 while something is wrong with the file of API keys, which /v1/index tells."
)
COMPACTION = Metric(
    "shoal_compaction_problem",
    "gauge",
    "1 while what was written should be compacted and is not, which /v1/index tells.",
)

EMBEDDED = Metric(
    "shoal_embedded_texts",
    "counter",
    "Texts that /v1/embed and its like were sent, by how their request ended: as shoal_queries.",
    ("outcome",),
)
RERANKED = Metric(
    "shoal_reranked_documents",
    "counter",
    "Documents that /v1/rerank and its like were sent, by how their request ended: as shoal_queries.",
    ("outcome",),
)

METRICS = (
    *(QUERIES, STAGES, SHARDS, MISSING, COVERAGE, DEGRADED, BATCHES, WAITING, PAIRS, SLOW, COMPUTE),
    *(ENCODED, REMEMBERED, SELECTED, SELECTIONS_REMEMBERED, CLOCK_SKEW, KEY_FILE, COMPACTION),
    *(EMBEDDED, RERANKED),
)
"""Every metric that there is."""


class Meter(Protocol):
    """Where measurements go: to Prometheus through Ray (`serve.ray_adapters.metrics`), or to a list in tests."""

    def count(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter; 0 adds nothing."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...


class NullMeter:
    """Measures nothing."""

    def count(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Do nothing."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Do nothing."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Do nothing."""


class Calls:
    """What a replica behind the ingress tells of its calls."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._counted: dict[Metric, int] = {}

    @contextmanager
    def call(self, name: str, queries: int) -> Iterator[None]:
        """Measure a call that serves so many queries; at DEBUG the log has a line for it."""
        started = time.perf_counter()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            seconds = time.perf_counter() - started
            self.meter.observe(COMPUTE, seconds, call=name)
            logger.debug("%s of %d %s in %.1f ms", name, queries, outcome, 1000 * seconds)

    def total(self, metric: Metric, count: int) -> None:
        """Bring a counter to what has been counted elsewhere; a count that has begun anew is taken as its start."""
        self.meter.count(metric, max(0, count - self._counted.get(metric, 0)))
        self._counted[metric] = count


class Telemetry:
    """What the ingress tells of its queries; it hears the pipeline as its `shoal.search.services.Observer`."""

    def __init__(self, meter: Meter, slow_query_ms: float, log_queries: bool) -> None:
        self._meter = meter
        self._slow_query_ms = slow_query_ms
        self._log_queries = log_queries

    def batch(self, stage: str, size: int) -> None:
        """A call with so many queries begins."""
        self._meter.observe(BATCHES, size, stage=stage)

    def shard(self, shard: int, seconds: float) -> None:
        """A shard has answered a search call."""
        self._meter.observe(SHARDS, seconds, shard=str(shard))

    def queue(self, stage: str, length: int) -> None:
        """So many queries wait for a stage."""
        self._meter.set(WAITING, length, stage=stage)

    def clock(self, service: str, skew_s: float) -> None:
        """The clock of a service is so many seconds ahead of that of the ingress."""
        self._meter.set(CLOCK_SKEW, skew_s, service=service)

    def key_file(self, problem: bool) -> None:
        """Whether something is wrong with the file of API keys."""
        self._meter.set(KEY_FILE, float(problem))

    def compaction(self, problem: bool) -> None:
        """Whether something keeps what was written from being compacted."""
        self._meter.set(COMPACTION, float(problem))

    def answered(self, requests: Sequence[SearchRequest], answers: Sequence[SearchAnswer]) -> None:
        """Measure the answers to the queries of one HTTP request, and log those that were slow."""
        for request, answer in zip(requests, answers, strict=True):
            self._measure(answer)
            if answer.timings.total >= self._slow_query_ms:
                self._meter.count(SLOW)
                self._log(request, answer.timings.total, _facts(answer))

    def ended(self, requests: Sequence[SearchRequest], error: BaseException, ms: float) -> None:
        """Measure queries that ended with an error."""
        outcome = _outcome(error)
        self._meter.count(QUERIES, len(requests), outcome=outcome)
        if ms >= self._slow_query_ms and outcome != "abandoned":
            self._meter.count(SLOW, len(requests))
            for request in requests:
                self._log(request, ms, {"outcome": outcome})

    @contextmanager
    def embedding(self, texts: int) -> Iterator[None]:
        """Count the texts of a request whose vectors are made in this block, by how it ends."""
        with self._counting(EMBEDDED, texts):
            yield

    @contextmanager
    def reranking(self, documents: int) -> Iterator[None]:
        """Count the documents of a request that are scored in this block, by how it ends."""
        with self._counting(RERANKED, documents):
            yield

    @contextmanager
    def _counting(self, metric: Metric, amount: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._meter.count(metric, amount, outcome=_outcome(error))
            raise
        self._meter.count(metric, amount, outcome="complete")

    def _measure(self, answer: SearchAnswer) -> None:
        meter, timings = self._meter, answer.timings
        meter.count(QUERIES, outcome="degraded" if answer.degraded else "complete")
        for stage, ms in timings.stages():
            meter.observe(STAGES, ms / 1000, stage=stage)
        meter.observe(COVERAGE, answer.coverage.fraction)
        meter.count(PAIRS, answer.pairs)
        for reason in answer.degradations:
            meter.count(DEGRADED, reason=reason)
        for missing in answer.coverage.missing:
            meter.count(MISSING, shard=str(missing.shard), reason=missing.reason)

    def _log(self, request: SearchRequest, ms: float, facts: dict[str, Any]) -> None:
        asked = {
            "mode": facts.pop("mode", request.mode),
            "top_k": request.top_k,
            "top_n": request.top_n,
            "rerank": request.rerank,
            "filtered": bool(request.filter),
            "query_characters": len(request.query),
            **({"query": request.query[:MOST_QUERY]} if self._log_queries else {}),
        }
        line = {"total_ms": round(ms, 1), **facts, **asked}
        text = " ".join(f"{name}={value!r}" if name == "query" else f"{name}={value}" for name, value in line.items())
        logger.warning("slow query: %s", text, extra={**fields(), "slow_query": line})


def _facts(answer: SearchAnswer) -> dict[str, Any]:
    coverage = answer.coverage
    return {
        **{f"{stage}_ms": round(ms, 1) for stage, ms in answer.timings.stages() if stage != "total"},
        "outcome": "degraded" if answer.degraded else "complete",
        **({"degraded": ",".join(answer.degradations)} if answer.degraded else {}),
        "coverage": round(coverage.fraction, 4),
        "pairs": answer.pairs,
        "version": answer.index_version,
        "mode": answer.mode,
    }


def _outcome(error: BaseException) -> str:
    kinds = {
        InvalidArgument: "invalid",
        Overloaded: "overloaded",
        DeadlineExceeded: "deadline",
        Unavailable: "unavailable",
        Exception: "failed",
    }
    return next((outcome for kind, outcome in kinds.items() if isinstance(error, kind)), "abandoned")
