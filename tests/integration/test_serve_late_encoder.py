"""A server with replicas of everything over token vectors of a multi-vector model: answers are those of one process."""

from pathlib import Path

import pytest

import shoal
from shoal.index_root import versions
from tests.support import current_models
from tests.support.building import Build, jsonl, records
from tests.support.serving import local_ray, serving


def test_replicas_give_the_answers_of_one_process(tmp_path: Path) -> None:
    model = current_models.save_multi_vector(tmp_path / "models", expands=True)
    computed = {"device": "cpu", "dtype": "float32"}
    stored = {"late_encoder": str(model), "late_interaction": "stored", "late_dims": 16, "shards": 2, **computed}
    build = Build(tmp_path / "root", jsonl(tmp_path / "source.jsonl", records(30)), **stored)
    versions.activate(build.storage, build.embed().publish())
    replicas = {"encoder_replicas": 1, "retriever_replicas": 1, "timeout_ms": 60_000, "shard_patience_ms": 60_000}
    with shoal.open(tmp_path / "root", **computed) as index:
        here = {rerank: index.search("topic 3", top_k=30, top_n=30, rerank=rerank) for rerank in ("late", "read")}
    with local_ray(), serving(tmp_path / "root", **computed, **replicas) as client:
        for rerank, expected in here.items():
            asked = {"query": "topic 3", "top_k": 30, "top_n": 30, "rerank": rerank}
            answer = client.post("/v1/search", json=asked).json()
            assert (answer["reranked"], answer["degraded"]) == (True, None)
            scores = {result["id"]: result["score"] for result in answer["results"]}
            assert scores == pytest.approx({result.id: result.score for result in expected.results}, abs=1e-3)
