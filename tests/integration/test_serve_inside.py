"""A server whose ingress has the encoder and all shards inside: it answers and changes versions like any other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal.settings import LexicalSettings
from tests.support.blends import write_blend
from tests.support.engine_contract import SETTINGS
from tests.support.indexes import passages, publish
from tests.support.live_contract import LiveEngineContract
from tests.support.serving import local_ray, serving


def test_it_answers_and_changes_versions(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        publish(tmp_path, version, passages(60, marker=f"of-{version}"), activate=version == "v1")
    inside = {"encoder_replicas": 0, "retriever_replicas": 0, "reranker": "overlap"}
    with local_ray(), serving(tmp_path, **inside) as client:
        for version in ("v1", "v2"):
            assert client.post("/v1/index/activate", json={"version": version}).status_code == 200
            answer = client.post("/v1/search", json={"query": "the black otter n8", "top_k": 20}).json()
            assert (answer["index_version"], answer["reranked"], answer["degraded"]) == (version, True, None)
            assert answer["coverage"] == {"shards": 2, "answered": 2, "fraction": 1.0, "missing": []}
            assert answer["results"][0]["text"] == f"the black otter number n8 of-{version}"
        assert client.post("/v1/index/rollback", json={}).json()["version"] == "v1"


def test_a_learned_blend_orders_its_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path is relative, and replicas run in another folder."""
    root = tmp_path / "root"
    manifest = publish(root, "v1", passages(60), lexical=LexicalSettings())
    write_blend(tmp_path / "blend.json", manifest, "overlap")
    monkeypatch.chdir(tmp_path)
    options = {"reranker": "overlap", "blend": "blend.json"}
    body = {"query": "the black otter n8", "top_k": 20, "top_n": 20}
    with shoal.open(root, reranker="overlap") as index:
        plain = index.search(**body)
    with shoal.open(root, **options) as index:
        expected = index.search(**body)
    with local_ray(), serving(root, **options, encoder_replicas=0, retriever_replicas=0) as client:
        answer = client.post("/v1/search", json=body).json()
    assert [each["id"] for each in answer["results"]] == [each.id for each in expected.results]
    assert [each["id"] for each in answer["results"]] != [each.id for each in plain.results]
    assert answer["degraded"] is None


class TestOnRay(LiveEngineContract):
    """What an engine in this process promises as well: tests/contract/test_engine.py."""

    @pytest.fixture(scope="class")
    def engine(self, engine_root: Path) -> Iterator[shoal.Client]:
        with local_ray(), serving(engine_root, **SETTINGS) as http, shoal.Client(str(http.base_url)) as client:
            yield client
