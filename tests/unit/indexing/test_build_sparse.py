"""Builds with a learned sparse model: what is searched by its terms, over shards, rebuilds and what was written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from jobs.build import tasks
from shoal.encoders import load_encoder
from shoal.errors import Conflict, EncoderMismatch, InvalidArgument
from shoal.evaluation.asking import LocalAsker
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.indexing.empty import create_index
from shoal.settings import CreateSettings, EncoderSettings, ServeSettings
from tests.support.building import Build, jsonl, records
from tests.support.incremental import Build as TitledBuild
from tests.support.incremental import Counting, files_of, publish
from tests.support.sparse import DIMENSIONS, WordWeights, word_weights
from tests.support.written import Root
from tests.unit.indexing.test_over_log import LiveBuild

__all__ = ["word_weights"]
QUERY = "topic 3 passage 11 12"


def build(folder: Path, name: str = "root", lines: Sequence[dict[str, Any]] | None = None, **options: Any) -> Build:
    """Build and activate an index with a sparse model."""
    source = jsonl(folder / f"{name}.jsonl", records(40) if lines is None else lines)
    made = Build(folder / name, source, sparse_encoder="words", **options)
    versions.activate(made.storage, made.embed().publish())
    return made


def search(root: Path, mode: str, **options: Any) -> list[tuple[str, float]]:
    with shoal.open(str(root), reranker="none") as index:
        answer = index.search(QUERY, mode=mode, top_k=12, top_n=12, **options)
        assert answer.mode == mode
        return [(result.id, result.score) for result in answer.results]


def expected(model: WordWeights, lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Scores of all passages that share a term with the query."""
    rows = np.zeros((len(lines), DIMENSIONS), np.float32)
    for row, text in zip(rows, model.encode([line["text"] for line in lines], are_queries=False), strict=True):
        row[text.terms] = text.weights.astype(np.float16)
    (query,) = model.encode([QUERY], are_queries=True)
    scores = rows[:, query.terms] @ query.weights
    return {line["id"]: float(score) for line, score in zip(lines, scores, strict=True) if score > 0}


def test_any_number_of_shards_finds_the_dot_products_of_terms(tmp_path: Path, word_weights: WordWeights) -> None:
    lines = records(40)
    scores = expected(word_weights, lines)
    best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:12]
    for shards in (1, 3):
        build(tmp_path, f"root-{shards}", shards=shards)
        found = search(tmp_path / f"root-{shards}", "sparse")
        assert [score for _, score in found] == pytest.approx([score for _, score in best], rel=1e-6)
        assert {id_: scores[id_] for id_, _ in found} == pytest.approx(dict(found), rel=1e-6)
    assert search(tmp_path / "root-1", "sparse") == found
    assert search(tmp_path / "root-1", "hybrid") == search(tmp_path / "root-3", "hybrid")


def test_filters_are_respected(tmp_path: Path, word_weights: WordWeights) -> None:
    lines = records(40)
    build(tmp_path)
    found = dict(search(tmp_path / "root", "sparse", filter={"page": {"$gte": 20}}))
    allowed = {id_: score for id_, score in expected(word_weights, lines).items() if int(id_[1:]) >= 20}
    assert found == pytest.approx({id_: allowed[id_] for id_ in found}, rel=1e-6)
    assert len(found) == min(12, len(allowed))


def test_hybrid_takes_the_terms_in_with_their_weight(tmp_path: Path, word_weights: WordWeights) -> None:
    build(tmp_path)
    with shoal.open(str(tmp_path / "root"), reranker="none", sparse_weight=1.0) as index:
        answer = index.search(QUERY, mode="hybrid", top_k=12, top_n=12, explain=True)
        alone = index.search(QUERY, mode="sparse", top_k=12, top_n=12)
        assert index.describe().modes == ["dense", "lexical", "hybrid", "sparse"]
        assert index.search(QUERY).mode == "hybrid"
    assert answer.explain is not None
    own = [candidate["sparse_score"] for candidate in answer.explain["candidates"]]
    assert own == sorted(own, reverse=True)
    assert own == pytest.approx([result.score for result in alone.results], rel=1e-6)


def test_without_words_and_without_an_encoder_terms_are_searched_alone(
    tmp_path: Path, word_weights: WordWeights
) -> None:
    lines = [line | {"vector": [1.0, float(number)]} for number, line in enumerate(records(40))]
    build(tmp_path, lines=lines, encoder="none:2", vectors_field="vector", lexical=False)
    scores = expected(word_weights, lines)
    found = dict(search(tmp_path / "root", "sparse"))
    assert len(found) == 12
    assert found == pytest.approx({id_: scores[id_] for id_ in found}, rel=1e-6)
    with shoal.open(str(tmp_path / "root"), reranker="none") as index:
        assert index.describe().modes == ["dense", "sparse"]
        with pytest.raises(InvalidArgument, match="--lexical"):
            index.search(QUERY, mode="hybrid")


def test_an_index_without_a_sparse_model_says_how_it_gets_one(tmp_path: Path) -> None:
    made = Build(tmp_path / "root", jsonl(tmp_path / "source.jsonl", records(10)))
    versions.activate(made.storage, made.embed().publish())
    with shoal.open(str(tmp_path / "root")) as index:
        assert index.describe().modes == ["dense", "lexical", "hybrid"]
        with pytest.raises(InvalidArgument, match=r"needs a sparse index.*build it with --sparse-encoder"):
            index.search(QUERY, mode="sparse")
        answer = index.search(QUERY, mode="hybrid", rerank=False, explain=True)
    assert answer.explain is not None
    assert "sparse_score" not in answer.explain["candidates"][0]


def test_a_build_over_it_copies_vectors_and_holds_what_a_new_one_holds(
    tmp_path: Path, word_weights: WordWeights
) -> None:
    lines = records(40)
    first = TitledBuild(tmp_path / "root", jsonl(tmp_path / "a.jsonl", lines), sparse_encoder="words")
    publish_with_terms(first)
    lines[7]["text"] = "another text about topic 3"
    changed = jsonl(tmp_path / "b.jsonl", lines)
    manifest, encoded = publish_with_terms(TitledBuild(tmp_path / "root", changed, sparse_encoder="words"))
    assert encoded == ["another text about topic 3"]
    anew, _ = publish_with_terms(TitledBuild(tmp_path / "other", changed, sparse_encoder="words"))
    sparse = {path: digest for path, digest in files_of(anew).items() if f"/{layout.SPARSE}/" in path}
    assert len(sparse) == 3 * 3
    assert sparse.items() <= files_of(manifest).items()


def publish_with_terms(build: Build) -> tuple[Any, list[str]]:
    """As `publish`, of an encoder that gives terms, too."""
    terms = build.encoder.encode_passage_terms  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counting, "encode_passage_terms", lambda self, texts: terms(texts), raising=False)
        return publish(build)  # type: ignore[arg-type]


def test_what_was_written_before_there_was_a_sparse_model_is_taken_over(
    tmp_path: Path, word_weights: WordWeights
) -> None:
    root = Root(tmp_path)
    root.write([{"id": "p1", "text": QUERY}, {"id": "n1", "text": QUERY}])
    root.write(["p2"])
    lines = [line for line in records(6) if line["id"] != "p4"]
    publish_with_terms(LiveBuild(root, lines, sparse_encoder="words"))
    found = dict(search(Path(root.storage.uri), "sparse"))
    now = [
        *(line for line in lines if line["id"] not in ("p1", "p2")),
        *({"id": i, "text": QUERY} for i in ("p1", "n1")),
    ]
    assert found == pytest.approx(expected(word_weights, now), rel=1e-6)


def test_writes_are_refused_with_the_remedy(tmp_path: Path, word_weights: WordWeights) -> None:
    build(tmp_path)
    with shoal.open(str(tmp_path / "root")) as index:
        for write in (
            lambda: index.upsert([{"id": "n", "text": "new"}]),
            lambda: index.delete(["p1"]),
            lambda: index.update([{"id": "p1", "metadata": {"page": 2}}]),
        ):
            with pytest.raises(Conflict, match="takes no writes: add to the source and build again"):
                write()
    with pytest.raises(InvalidArgument, match="takes no writes"):
        create_index(CreateSettings(index=str(tmp_path / "empty"), encoder="hashing:16", sparse_encoder="words"))


def test_workers_encode_terms_beside_vectors(tmp_path: Path, word_weights: WordWeights) -> None:
    made = Build(tmp_path / "root", jsonl(tmp_path / "source.jsonl", records(40)), sparse_encoder="words")
    made.storage.write(layout.plan(made.plan.hash), made.plan.to_bytes())
    done = tasks.Embedder(made.settings, made.storage.uri, made.plan.hash)({"item": np.array([1])})
    assert done["rows"].sum() == 10
    assert len(word_weights.texts) == 10
    assert set(word_weights.texts) <= {line["text"] for line in records(40)}


def test_another_sparse_model_is_refused(tmp_path: Path, word_weights: WordWeights) -> None:
    build(tmp_path)
    word_weights.fingerprint = word_weights.fingerprint.model_copy(update={"weights": "sha256:others"})
    with pytest.raises(EncoderMismatch, match="sha256:others"), shoal.open(str(tmp_path / "root")):
        pass


def test_a_server_may_say_where_the_model_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    model = WordWeights()
    monkeypatch.setattr("shoal.encoders._sparse.load", lambda name, settings: loaded.append(name) or model)
    build(tmp_path)
    other = Build(tmp_path / "plain", jsonl(tmp_path / "plain.jsonl", records(4)))
    versions.activate(other.storage, other.embed().publish())
    with shoal.open(str(tmp_path / "root"), reranker="none", sparse_encoder="/models/here") as index:
        assert index.search(QUERY, mode="sparse").results
    with shoal.open(str(tmp_path / "plain"), reranker="none", sparse_encoder="/models/here") as index:
        assert index.search(QUERY).mode == "hybrid"
    assert loaded == ["words", "/models/here"]


def test_an_evaluation_asks_each_retriever(tmp_path: Path, word_weights: WordWeights) -> None:
    made = build(tmp_path)
    manifest = versions.current_manifest(Storage(str(tmp_path / "root")))
    encoder = load_encoder(EncoderSettings(**manifest.encoder.options))
    settings = ServeSettings(index=str(tmp_path / "root"), reranker="none")
    with LocalAsker(made.storage, manifest, encoder, None, settings, 60_000) as asker:
        assert list(asker.modes) == ["dense", "lexical", "hybrid", "sparse"]
        found = asker.retrieve(QUERY, "hybrid", 12)
        assert list(found) == ["dense", "lexical", "sparse"]
        alone = [(candidate.id, candidate.score) for candidate in asker.retrieve(QUERY, "sparse", 12)["sparse"]]
    assert [(candidate.id, candidate.scores["sparse"]) for candidate in found["sparse"]] == alone
    assert alone == search(tmp_path / "root", "sparse")
