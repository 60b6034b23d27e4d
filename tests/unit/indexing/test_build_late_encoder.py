"""Builds whose token vectors are those of a multi-vector model: what reranks by them, rebuilds and what was written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from jobs.build import tasks
from shoal.client.answers import SearchResponse
from shoal.encoders import load_encoder
from shoal.errors import EncoderMismatch, InvalidArgument
from shoal.evaluation.asking import LocalAsker
from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.auto_tokens import follow_current
from shoal.indexing.base import keep_late_encoder
from shoal.indexing.compaction import compact
from shoal.indexing.empty import create_index
from shoal.indexing.plan import make_plan
from shoal.rerankers import load_reranker
from shoal.serving.plan import plan_serving
from shoal.settings import (
    BuildSettings,
    CompactSettings,
    CreateSettings,
    EncoderSettings,
    RerankerSettings,
    ServeSettings,
)
from tests.support.building import Build, jsonl, records
from tests.support.incremental import publish
from tests.support.multi_vector import DIMENSIONS, WordVectors, word_vectors

__all__ = ["word_vectors"]
QUERY = "topic 3 passage 11 12"
STORED: dict[str, Any] = {"late_encoder": "words", "late_interaction": "stored", "late_bits": 8}
ROUNDING = 0.01
"""Of a score by codes of 8 bits."""


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_held", {})


def build(folder: Path, name: str = "root", lines: Sequence[dict[str, Any]] | None = None, **options: Any) -> Manifest:
    """Build and activate an index with a multi-vector model."""
    source = jsonl(folder / f"{name}.jsonl", records(40) if lines is None else lines)
    made, _ = publish(Build(folder / name, source, **{**STORED, **options}))  # type: ignore[arg-type]
    return made


def search(root: Path, query: str = QUERY, **options: Any) -> SearchResponse:
    with shoal.open(str(root)) as index:
        return index.search(query, **{"top_k": 40, "top_n": 40, "rerank": "late", **options})


def check_scores(answer: SearchResponse, model: WordVectors, query: str = QUERY) -> None:
    """Check that an answer has the scores of the model, and nothing else orders it."""
    assert (answer.reranked, answer.degraded) == (True, None)
    scores = model.scores(query, [result.text or "" for result in answer.results])
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose([result.rerank_score for result in answer.results], scores, atol=ROUNDING)
    assert [result.score for result in answer.results] == [result.rerank_score for result in answer.results]


def test_any_number_of_shards_has_the_scores_of_the_model_alone(tmp_path: Path, word_vectors: WordVectors) -> None:
    for shards in (1, 3):
        build(tmp_path, f"root-{shards}", shards=shards)
    for mode in ("dense", "hybrid"):
        answer = search(tmp_path / "root-1", mode=mode)
        assert len(answer.results) == 40
        check_scores(answer, word_vectors)
        again = search(tmp_path / "root-3", mode=mode)
        check_scores(again, word_vectors)
        assert {result.id: result.score for result in again.results} == pytest.approx(
            {result.id: result.score for result in answer.results}, abs=1e-5
        )


def test_the_reranker_of_a_server_reads_with_the_same_model(tmp_path: Path, word_vectors: WordVectors) -> None:
    build(tmp_path)
    stored = search(tmp_path / "root", mode="hybrid", rerank=True)
    assert stored.reranker == "late"
    check_scores(stored, word_vectors)
    read = search(tmp_path / "root", mode="hybrid", rerank="read", highlight=True)
    assert read.reranker == "late_interaction"
    check_scores(read, word_vectors)
    # Where the tokens of a passage lie in it is not known: words tell.
    assert read.results[0].highlight is not None
    assert read.warnings == []
    assert search(tmp_path / "root", highlight=True).results[0].highlight is not None


def test_a_reranker_that_is_loaded_for_itself_reads_with_the_same_model(
    tmp_path: Path, word_vectors: WordVectors
) -> None:
    build(tmp_path)
    plan = plan_serving(ServeSettings(index=str(tmp_path / "root")))
    assert plan.reranker is not None
    assert (plan.reranker.late_encoder, plan.reranker_kind, plan.reranker_scale) == ("words", "_multi_vector", "cosine")
    reranker, texts = load_reranker(plan.reranker), [line["text"] for line in records(10)]
    assert reranker.name() == "late_interaction(words)"
    np.testing.assert_allclose(reranker.score(QUERY, texts), word_vectors.scores(QUERY, texts), atol=1e-3)
    other = plan_serving(ServeSettings(index=str(tmp_path / "root"), reranker="overlap"))
    assert other.reranker is not None
    assert (other.reranker.late_encoder, other.reranker_kind) == (None, "overlap")


def test_stage_one_is_that_of_the_encoder(tmp_path: Path, word_vectors: WordVectors) -> None:
    build(tmp_path)
    made, _ = publish(Build(tmp_path / "plain", jsonl(tmp_path / "plain.jsonl", records(40))))  # type: ignore[arg-type]
    assert "late" not in made.encoder.model_dump()
    word_vectors.texts.clear()
    plain, beside = (search(tmp_path / name, rerank=False) for name in ("plain", "root"))
    assert [(result.id, result.score) for result in plain.results] == [
        (result.id, result.score) for result in beside.results
    ]
    assert word_vectors.texts == []


def test_a_build_over_it_copies_token_vectors(tmp_path: Path, word_vectors: WordVectors) -> None:
    lines = records(40)
    first = build(tmp_path)
    lines[7]["text"] = "another text about topic 3"
    source = jsonl(tmp_path / "changed.jsonl", lines)
    manifest, encoded = publish(Build(tmp_path / "root", source, **STORED))  # type: ignore[arg-type]
    assert encoded == ["another text about topic 3"]
    assert manifest.encoder == first.encoder
    check_scores(search(tmp_path / "root"), word_vectors)

    word_vectors.fingerprint = word_vectors.fingerprint.model_copy(update={"weights": "sha256:others"})
    other = Build(tmp_path / "root", source, **STORED)
    assert other.remark is not None
    assert "the token vectors of" in other.remark
    own = Build(tmp_path / "root", source, late_interaction="stored", late_bits=8, late_dims=16)
    assert own.plan.base is None
    without = Build(tmp_path / "root", source, late_interaction="none")
    assert without.plan.base == manifest.version


def test_a_build_keeps_the_model_of_the_current_version(tmp_path: Path, word_vectors: WordVectors) -> None:
    given = {"source": "s", "index": str(tmp_path / "root"), "encoder": "hashing:16"}
    asked = BuildSettings.model_validate(given)
    assert keep_late_encoder(asked) == asked
    build(tmp_path)
    kept = keep_late_encoder(asked)
    assert kept.late_encoder == "words"
    followed, remark = follow_current(kept, Storage(asked.index))
    assert (followed.late_interaction, followed.late_dims, followed.late_bits) == ("stored", DIMENSIONS, 8)
    assert remark is None
    for changes in ({"reembed": True}, {"late_interaction": "none"}, {"encoder": "hashing:8"}):
        assert keep_late_encoder(BuildSettings.model_validate(given | changes)).late_encoder is None
    named = BuildSettings.model_validate(given | {"late_encoder": "another"})
    assert keep_late_encoder(named) == named


def test_who_names_a_model_wants_its_vectors_stored(tmp_path: Path, word_vectors: WordVectors) -> None:
    source = jsonl(tmp_path / "source.jsonl", records(40))
    given = {"source": str(source), "index": str(tmp_path / "root"), "encoder": "hashing:16", "late_encoder": "words"}
    settings, _ = follow_current(BuildSettings.model_validate(given), Storage(str(tmp_path / "root")))
    fingerprint, width = tasks.describe_encoder(settings)
    plan = make_plan(settings, fingerprint, width)
    # 128 by default, which the model has not; a number that is named is taken for what it is.
    assert (plan.stores_tokens, plan.late.late_dims) == (True, DIMENSIONS)
    publish(Build(tmp_path / "plain", source))  # type: ignore[arg-type]
    over_plain = BuildSettings.model_validate(given | {"index": str(tmp_path / "plain")})
    assert follow_current(over_plain, Storage(over_plain.index))[0].late_interaction == "stored"
    with pytest.raises(InvalidArgument, match=r"late_dims=128.*take 32 at most"):
        tasks.describe_encoder(settings.model_copy(update={"late_dims": 128}))
    with pytest.raises(InvalidArgument, match="leave one of them out"):
        make_plan(BuildSettings.model_validate(given | {"late_interaction": "none"}), fingerprint)


def test_what_has_no_encoder_or_no_passages_has_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="begins empty has no multi-vector model"):
        create_index(CreateSettings(index=str(tmp_path / "empty"), encoder="hashing:16", late_encoder="words"))
    with pytest.raises(InvalidArgument, match="stands beside an encoder"):
        load_encoder(EncoderSettings(encoder="none:8", late_encoder="words"))


def test_another_model_is_refused(tmp_path: Path, word_vectors: WordVectors) -> None:
    build(tmp_path)
    word_vectors.fingerprint = word_vectors.fingerprint.model_copy(update={"weights": "sha256:others"})
    with pytest.raises(EncoderMismatch, match="sha256:others"), shoal.open(str(tmp_path / "root")):
        pass


def test_a_server_may_say_where_the_model_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    model = WordVectors()

    def load(name: str, settings: EncoderSettings) -> tuple[WordVectors, Any]:
        loaded.append(name)
        return model, model.fingerprint

    monkeypatch.setattr("shoal.encoders._multi_vector.load", load)
    build(tmp_path)
    publish(Build(tmp_path / "plain", jsonl(tmp_path / "plain.jsonl", records(4))))  # type: ignore[arg-type]
    with shoal.open(str(tmp_path / "root"), late_encoder="/models/here") as index:
        check_scores(index.search(QUERY, rerank="late"), model)
    with shoal.open(str(tmp_path / "plain"), late_encoder="/models/here") as index:
        assert index.search(QUERY).results
    assert loaded == ["words", "/models/here"]


def test_what_is_written_has_token_vectors_too(tmp_path: Path, word_vectors: WordVectors) -> None:
    root = tmp_path / "root"
    build(tmp_path)
    written = [
        {"id": "p3", "text": "passage 11 12 passage 13"},
        {"id": "n1", "text": "topic 3 topic 11 about topic 12"},
    ]
    with shoal.open(str(root)) as index:
        index.upsert(written)
        index.delete(["p5"])
        live = index.search(QUERY, top_k=50, top_n=50, rerank="late", consistency="strong")
    texts = {result.id: result.text for result in live.results}
    assert len(texts) == 40
    assert {line["id"]: texts[line["id"]] for line in written} == {line["id"]: line["text"] for line in written}
    check_scores(live, word_vectors)
    assert compact(CompactSettings(index=str(root)), Log.open(Storage(str(root)))) is not None
    compacted = search(root, top_k=50, top_n=50)
    assert {result.id: result.score for result in compacted.results} == pytest.approx(
        {result.id: result.score for result in live.results}, abs=1e-6
    )


def test_workers_encode_with_both_models(tmp_path: Path, word_vectors: WordVectors) -> None:
    made = Build(tmp_path / "root", jsonl(tmp_path / "source.jsonl", records(40)), **STORED)
    made.storage.write(f"staging/{made.plan.hash}/plan.json", made.plan.to_bytes())
    made.codec()
    word_vectors.texts.clear()
    done = tasks.Embedder(made.settings, made.storage.uri, made.plan.hash)({"item": np.array([1])})
    assert done["rows"].sum() == 10
    assert len(word_vectors.texts) == 10
    assert set(word_vectors.texts) <= {line["text"] for line in records(40)}


def test_an_evaluation_ranks_as_a_server_does(tmp_path: Path, word_vectors: WordVectors) -> None:
    manifest = build(tmp_path)
    encoder = load_encoder(EncoderSettings(**manifest.encoder.options))
    settings = ServeSettings(index=str(tmp_path / "root"))
    reranker = load_reranker(RerankerSettings(encoder="hashing:16", late_encoder="words"))
    with LocalAsker(Storage(str(tmp_path / "root")), manifest, encoder, reranker, settings, 60_000) as asker:
        assert (asker.reranker_kind, asker.late_kind) == ("_multi_vector", "_multi_vector")
        ids, whole = asker.ask(QUERY, "hybrid", "late", 40)
    assert whole
    assert ids == [result.id for result in search(tmp_path / "root", mode="hybrid").results]
    assert versions.current_manifest(Storage(str(tmp_path / "root"))).late is not None
