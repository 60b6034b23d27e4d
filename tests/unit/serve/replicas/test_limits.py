"""What the engine refuses by itself, so that a dialect which checks nothing harms no shard."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import telemetry
from serve.replicas.ingress import Ingress
from shoal.errors import InvalidArgument
from shoal.records import SearchRequest
from shoal.settings import ServeSettings
from tests.support.engine import local_engine
from tests.support.indexes import passages, publish
from tests.support.meters import RecordingMeter
from tests.support.replicas import soon

LIMITS: dict[str, Any] = {
    "max_top_k": 30,
    "max_results": 60,
    "max_vectors": 20,
    "max_queries": 8,
    "max_query_bytes": 40,
    "max_timeout_ms": 40_000,
    "max_body_bytes": 1000,
}


@pytest.fixture
def meter() -> RecordingMeter:
    return RecordingMeter()


@pytest.fixture
async def engine(tmp_path: Path, meter: RecordingMeter) -> Ingress:
    publish(tmp_path, "v1", passages(40))
    settings = ServeSettings(index=str(tmp_path), encoder="hashing:64", reranker="overlap", **LIMITS)
    return await local_engine(settings, meter=meter)


def request(**changes: Any) -> SearchRequest:
    plain = SearchRequest(query="red fish", top_k=10, top_n=5, rerank=False, deadline=soon())
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("requests", "param", "message"),
    [
        ([request()] * 9, "query", "at most 8 texts, not 9"),
        ([request(query=" \n")], "query", "query should not be blank"),
        ([request(), request(query="")], "query", "query should not be blank"),
        ([request(query="f" * 41)], "query", "at most 40 bytes of UTF-8, not 41"),
        ([request(query="魚" * 14)], "query", "at most 40 bytes of UTF-8, not 42"),
        ([request(query="a \ud800 b")], "query", "without lone surrogates"),
        ([request(instruction="a \ud800 b")], "instruction", "instruction should be Unicode text, without lone"),
        ([request(instruction=" ")], "instruction", "instruction should not be blank"),
        ([request(top_k=31)], "top_k", "top_k should be 1 to 30, not 31"),
        ([request(top_k=10**12, top_n=10**12)], "top_k", "top_k should be 1 to 30"),
        ([request(top_k=0, top_n=0)], "top_k", "top_k should be 1 to 30, not 0"),
        ([request(top_n=-1)], "top_n", "top_n should be 1 to 30, not -1"),
        ([request(top_n=11)], "top_n", "top_n should be at most top_k"),
        ([request(top_k=30, top_n=30)] * 3, "top_n", "top_n 30 of 3 queries makes 90 results, more than the 60"),
        ([request(top_k=30, explain=True)] * 3, "top_k", "top_k 30 of 3 queries makes 90 results"),
        ([request(top_k=21, top_n=21, include_vector=True)], "top_n", "21 results with vectors, more than the 20"),
        ([request(query="", passage_id="x" * 1025)], "id", "id should be at most 1024 bytes of UTF-8, not 1025"),
        ([request(query="", passage_id="\ud800")], "id", "id should be Unicode text"),
        ([request(query="f" * 41, vector=np.ones(64, np.float32))], "query", "at most 40 bytes of UTF-8, not 41"),
        ([request(query="", passage_id="p1"), request(query="")], "query", "query should not be blank"),
        ([request(deadline=time.monotonic() + 10**6)], "timeout_ms", "timeout_ms should be at most 40,000"),
    ],
)
async def test_a_search_beyond_the_limits_is_refused_before_anything_is_done(
    requests: list[SearchRequest], param: str, message: str, engine: Ingress, meter: RecordingMeter
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await engine.search(requests)
    assert message in refused.value.message
    assert refused.value.param == param
    assert meter.observed(telemetry.COMPUTE) == []
    assert meter.counted(telemetry.QUERIES, outcome="invalid") == len(requests)


async def test_a_search_within_the_limits_is_answered(engine: Ingress) -> None:
    answers = await engine.search([request(top_k=30, top_n=7, query="f" * 40)] * 8)
    assert [len(answer.results) for answer in answers] == [7] * 8
    (answer,) = await engine.search([request(top_k=30, top_n=20, include_vector=True)])
    assert len(answer.results) == 20


async def test_texts_beyond_the_limits_are_neither_encoded_nor_reranked(engine: Ingress, meter: RecordingMeter) -> None:
    for texts, kind, message in (
        (["fish"] * 21, "passage", "inputs should have at most 20 texts, not 21"),
        (["fish", " "], "passage", r"inputs\[1\] should not be blank"),
        (["x" * 600, "y" * 600], "passage", "at most 1,000 bytes of UTF-8 together, not 1,200"),
        (["x" * 41], "query", r"inputs\[0\] should be at most 40 bytes"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await engine.embed(texts, kind, soon())  # type: ignore[arg-type]
    for query, documents, message in (
        ("", ["fish"], "query should not be blank"),
        ("fish", ["fish"] * 31, "documents should have at most 30 texts, not 31"),
        ("fish", ["x" * 1001], "at most 1,000 bytes"),
        ("fish", ["\udfff"], r"documents\[0\] should be Unicode text"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await engine.rerank(query, documents, soon())
    for late in (engine.embed(["fish"], "query", soon() + 60), engine.rerank("fish", ["fish"], soon() + 60)):
        with pytest.raises(InvalidArgument, match="timeout_ms should be at most 40,000"):
            await late
    assert meter.observed(telemetry.COMPUTE) == []


async def test_ids_beyond_the_limits_are_neither_fetched_nor_listed(engine: Ingress, meter: RecordingMeter) -> None:
    engine._limits._settings = engine._settings.model_copy(update={"max_ids": 30, "max_id_bytes": 10})
    for ids, with_vectors, message in (
        ([], False, "1 to 30 ids, not 0"),
        (["p1"] * 31, False, "1 to 30 ids, not 31"),
        (["p1"] * 21, True, "1 to 20 ids with their vectors, not 21"),
        (["p1", ""], False, r"ids\[1\] should not be empty"),
        (["魚" * 4], False, r"ids\[0\] should be at most 10 bytes"),
        (["\ud800"], False, r"ids\[0\] should be Unicode text"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await engine.fetch(ids, soon(), with_vectors)
    for prefix, limit, message in (
        ("", 31, "limit should be 1 to 30, not 31"),
        ("", 0, "limit should be 1 to 30, not 0"),
        ("p" * 11, 1, "prefix should be at most 10 bytes"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await engine.list_ids(prefix, limit, None, soon())
    with pytest.raises(InvalidArgument, match="timeout_ms"):
        await engine.fetch(["p1"], soon() + 60)
    assert meter.observed(telemetry.COMPUTE) == []


async def test_passages_are_fetched_and_ids_listed_from_real_shards(engine: Ingress) -> None:
    expected = {passage.id: passage for passage in passages(40)}
    page = await engine.list_ids("p", 30, None, soon())
    rest = await engine.list_ids("p", 30, page.next, soon())
    assert page.ids + rest.ids == sorted(expected)
    fetched = await engine.fetch([*rest.ids, "nothing"], soon(), with_vectors=True)
    assert [passage for passage, _ in fetched.passages] == [expected[id_] for id_ in rest.ids]
    assert all(vector is not None and vector.shape == (64,) for _, vector in fetched.passages)
    assert fetched.missing == ["nothing"]
