"""Indexes that begin without passages: they are whole, are searched, and are built over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from serve.replicas.encoder import QueryEncoder
from shoal.errors import Conflict, InvalidArgument
from shoal.evaluation.evaluate import evaluate
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexing.compaction import compact
from shoal.indexing.empty import create_index, keep_settings
from shoal.serving.plan import plan_serving
from shoal.settings import BuildSettings, CompactSettings, CreateSettings, EvaluateSettings, ServeSettings
from tests.support.building import DIM, jsonl, records
from tests.support.incremental import Build, files_of, publish
from tests.support.tiny_models import save_bi_encoder


def create(root: Path, **options: Any) -> str:
    given = {} if "dimension" in options else {"encoder": f"hashing:{DIM}"}
    return create_index(CreateSettings.model_validate({"index": str(root), **given, **options})).version


def test_the_first_version_is_whole_current_and_alone(tmp_path: Path) -> None:
    version = create(tmp_path, shards=3, metadata_types=["page:integer"])
    storage = Storage(str(tmp_path))
    manifest = versions.current_manifest(storage)
    assert (manifest.version, manifest.counts.passages, len(manifest.shards)) == (version, 0, 3)
    assert (manifest.fields, manifest.index.kind, manifest.build.get("source")) == ({"page": "integer"}, "flat", None)
    assert versions.verify(storage, version) == []
    assert list(storage.list(layout.STAGING)) == []
    with pytest.raises(Conflict, match=f"{version} already"):
        create(tmp_path)
    versions.prune(storage, 0)
    assert versions.list_versions(storage) == [version]


def test_a_folder_whose_only_version_is_not_current_is_no_new_index(tmp_path: Path) -> None:
    version = create(tmp_path)
    (tmp_path / layout.CURRENT).unlink()
    with pytest.raises(Conflict, match=version):
        create(tmp_path)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"encoder": "hashing:64", "dimension": 64}, "dimension"),
        ({"encoder": "hashing", "chunk_overlap": 10}, "chunk_overlap"),
        ({"encoder": "hashing", "chunk_characters": 50, "chunk_overlap": 50}, "chunk_overlap"),
        ({"chunk_characters": 50, "dimension": 64}, "chunk_characters"),
        ({"encoder": "hashing", "text_field": "title"}, "text_field"),
        ({"encoder": "hashing", "lexical_language": "klingon"}, "lexical_language"),
        ({"encoder": "none:0"}, "encoder"),
        ({"encoder": "hashing", "query_instruction": "find claims"}, "instruction"),
    ],
)
def test_settings_that_contradict_one_another_create_nothing(
    tmp_path: Path, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        create_index(CreateSettings.model_validate({"index": str(tmp_path / "index"), **options}))
    assert refused.value.param == param
    assert not (tmp_path / "index" / "versions").exists()


def test_an_index_of_a_dimension_alone_answers_by_words_and_refuses_to_encode(tmp_path: Path) -> None:
    create(tmp_path, dimension=8)
    plan = plan_serving(ServeSettings(index=str(tmp_path)))
    assert (plan.encoder.encoder, plan.reranker) == ("none:8", None)
    encoder = QueryEncoder(plan.encoder, plan.manifest.encoder, 10)
    assert encoder is not None
    with shoal.open(tmp_path, reranker="overlap") as index:
        assert index.search("coral", mode="lexical").results == []
        for ask in (lambda: index.search("coral"), lambda: index.search("coral", mode="dense")):
            with pytest.raises(InvalidArgument, match="no encoder: its vectors of 8 dimensions") as refused:
                ask()
            assert refused.value.param == "query"


def test_a_build_over_it_is_one_from_nothing_with_its_settings(tmp_path: Path) -> None:
    kept = {"lexical_stopwords": False, "metadata_types": ["page:number"], "shards": 3, "chunk_characters": 50}
    version = create(tmp_path / "index", **kept)
    source = jsonl(tmp_path / "corpus.jsonl", records(40))
    given = {"source": str(source), "index": str(tmp_path / "index"), "unit_passages": 10, "title_field": "title"}
    settings, remark = keep_settings(BuildSettings.model_validate(given))
    assert remark is not None
    assert version in remark
    assert (settings.encoder, settings.shards, settings.chunk_characters) == (f"hashing:{DIM}", 3, 50)
    over = Build(tmp_path / "index", source, **{name: getattr(settings, name) for name in kept})
    assert (over.plan.base, over.remark) == (None, None)
    manifest, encoded = publish(over)
    fresh, _ = publish(Build(tmp_path / "fresh", source, **kept))
    assert files_of(manifest) == files_of(fresh)
    assert len(encoded) == 40
    assert manifest.fields == {"page": "number"}
    assert versions.read_current(over.storage).previous == version  # type: ignore[union-attr]


def test_what_a_build_names_itself_is_not_kept_nor_is_anything_of_other_versions(tmp_path: Path) -> None:
    given: dict[str, Any] = {"source": "corpus.jsonl", "index": str(tmp_path), "encoder": "hashing:8", "shards": 2}
    assert keep_settings(BuildSettings(**given))[1] is None
    create(tmp_path, lexical_b=0.5, lexical_k1=2.0, max_length=99)
    settings, _ = keep_settings(BuildSettings(**given, lexical_k1=1.0))
    assert (settings.encoder, settings.max_length, settings.shards) == ("hashing:8", None, 2)
    assert (settings.lexical_b, settings.lexical_k1) == (0.5, 1.0)
    del given["encoder"]
    assert keep_settings(BuildSettings(**given))[0].max_length == 99
    publish(Build(tmp_path, jsonl(tmp_path / "corpus.jsonl", records(3))))
    assert keep_settings(BuildSettings(**given)) == (BuildSettings(**given), None)


def test_vectors_from_elsewhere_are_built_over_a_dimension_alone(tmp_path: Path) -> None:
    create(tmp_path / "index", dimension=DIM)
    lines = [{"id": f"p{n}", "text": f"text {n}", "vector": [n, 1, *[0] * (DIM - 2)]} for n in range(5)]
    source = jsonl(tmp_path / "corpus.jsonl", lines)
    given = {"source": str(source), "index": str(tmp_path / "index"), "vectors_field": "vector"}
    settings, _ = keep_settings(BuildSettings.model_validate(given))
    publish(Build(tmp_path / "index", source, encoder=settings.encoder, vectors_field="vector"))
    with shoal.open(tmp_path / "index") as index:
        assert [result.id for result in index.search("text 3", mode="lexical", top_n=1).results] == ["p3"]
        vector = index.fetch(["p3"], include=["vector"]).passages[0].vector
        np.testing.assert_allclose(vector, np.array([3, 1, *[0] * (DIM - 2)]) / np.sqrt(10), atol=1e-6)


def test_an_index_of_vectors_from_elsewhere_is_searched_by_vectors_ids_and_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((40, DIM))
    lines = [{"id": f"p{n}", "text": f"text of {n}", "vector": vectors[n].tolist()} for n in range(40)]
    source = jsonl(tmp_path / "corpus.jsonl", lines)
    publish(Build(tmp_path / "index", source, encoder=f"none:{DIM}", vectors_field="vector"))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = rng.standard_normal(DIM)
    cosines = unit @ query / np.linalg.norm(query)
    with shoal.open(tmp_path / "index", reranker="overlap") as index:
        found = index.search(vector=query, top_k=12).results
        assert [result.id for result in found] == [f"p{n}" for n in np.argsort(-cosines)[:12]]
        np.testing.assert_allclose([result.score for result in found], np.sort(cosines)[::-1][:12], atol=1e-5)
        nearest = [n for n in np.argsort(-(unit @ unit[7])) if n != 7][:5]
        assert [result.id for result in index.search(id="p7", top_k=5).results] == [f"p{n}" for n in nearest]
        both = index.search("text 3", vector=query, top_k=40, top_n=40)
        assert (both.mode, both.reranked, both.results[0].id) == ("hybrid", True, "p3")
        assert index.rerank("text 3", ["a 2", "a 3"]).results[0].index == 1
        for ask, param, message in (
            (lambda: index.search("text 3"), "query", "send one [(]vector[)], search by words"),
            (
                lambda: index.embed(["text 3"], "query"),
                "inputs",
                f"its vectors of {DIM} dimensions come from elsewhere",
            ),
            (lambda: index.embed(["text 3"], "passage"), "inputs", "this index has no encoder"),
            (lambda: index.search("text 3", vector=query[1:]), "vector", f"should have {DIM} numbers"),
        ):
            with pytest.raises(InvalidArgument, match=message) as refused:
                ask()
            assert refused.value.param == param


def test_it_is_evaluated(tmp_path: Path) -> None:
    create(tmp_path / "index")
    dataset = tmp_path / "dataset"
    (dataset / "qrels").mkdir(parents=True)
    (dataset / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "coral"}) + "\n")
    (dataset / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp1\t1\n")
    outcome = evaluate(EvaluateSettings(dataset=str(dataset), index=str(tmp_path / "index"), reranker="overlap"))
    assert [row.values["nDCG@10"] for row in outcome.rows] == [0.0] * 6
    assert outcome.absent is not None
    assert set(outcome.absent.ids) == {"p1"}


def test_the_field_of_the_text_is_kept_by_builds_and_compactions(tmp_path: Path) -> None:
    create(tmp_path / "index", text_field="chunk")
    given = {"source": "corpus.jsonl", "index": str(tmp_path / "index")}
    settings, remark = keep_settings(BuildSettings.model_validate(given))
    assert settings.text_field == "chunk"
    assert remark is not None
    assert remark.endswith(f"encoder hashing:{DIM}, text_field chunk")
    with shoal.open(tmp_path / "index", reranker="overlap") as index:
        assert index.describe().text_field == "chunk"
        held = [
            {"id": "given", "vector": [1.0] * DIM, "metadata": {"chunk": "coral reefs grow", "year": 2020}},
            {"id": "encoded", "metadata": {"chunk": "fish sleep", "year": 2021}},
        ]
        index.upsert(held)
    for is_compacted in (False, True):
        with shoal.open(tmp_path / "index", reranker="overlap") as index:
            (result,) = index.search("reefs", mode="lexical", include=["text", "metadata"]).results
            assert (result.id, result.text, result.metadata) == ("given", "coral reefs grow", {"year": 2020})
            assert result.rerank_score is not None
            assert result.rerank_score > 0
            assert index.upsert(held).unchanged == 2
        if not is_compacted:
            manifest = compact(CompactSettings(index=str(tmp_path / "index")), Log.open(str(tmp_path / "index")))
            assert manifest is not None
            assert manifest.text_field == "chunk"


def scores_of(root: Path, rerank: str) -> dict[str, tuple[float | None, float | None]]:
    with shoal.open(root) as index:
        answer = index.search("red fish", mode="hybrid", top_n=4, rerank=rerank)
        return {result.id: (result.score, result.rerank_score) for result in answer.results}


def test_token_vectors_of_what_is_written_are_stored_from_the_first_passage_on(tmp_path: Path) -> None:
    root = tmp_path / "index"
    create(root, late_interaction="stored", late_dims=DIM, late_bits=8, shards=2)
    lines = [{"id": f"p{n}", "text": text} for n, text in enumerate(("red fish swim", "a red house", "fish", "coral"))]
    with shoal.open(root) as index:
        assert index.describe().late_interaction == "stored"
        index.upsert(lines)
    live, read = scores_of(root, "late"), scores_of(root, "read")
    assert set(live) == {line["id"] for line in lines}
    # With every dimension and 8 bits, stored vectors are those that reading the texts gives, but for the rounding.
    for id_, (_, score) in live.items():
        assert score == pytest.approx(read[id_][1], abs=0.03)
    manifest = compact(CompactSettings(index=str(root)), Log.open(str(root)))
    assert manifest is not None
    assert manifest.late is not None
    assert (manifest.counts.passages, manifest.late.dims, manifest.late.bits) == (4, DIM, 8)
    assert versions.verify(Storage(str(root)), manifest.version) == []
    assert scores_of(root, "late") == live
    with shoal.open(root) as index:  # what is written later is laid over them
        index.upsert([{"id": "p4", "text": "the red fish"}])
    assert scores_of(root, "late").keys() > {"p4"}


def test_what_stores_token_vectors_by_itself_is_what_a_build_of_the_encoder_would_store(tmp_path: Path) -> None:
    network = save_bi_encoder(tmp_path / "network")
    for name, options, late in (
        ("auto", {"late_dims": 32}, (32, 2)),
        ("longer", {"late_dims": 512}, None),
        ("none", {"late_interaction": "none", "late_dims": 32}, None),
        ("weightless", {"encoder": "hashing:32"}, None),
    ):
        create(tmp_path / name, **{"encoder": str(network), "threads": 1, **options})
        info = versions.current_manifest(Storage(str(tmp_path / name))).late
        assert (info if info is None else (info.dims, info.bits)) == late
    with pytest.raises(InvalidArgument) as refused:
        create(tmp_path / "refused", dimension=8, late_interaction="stored")
    assert refused.value.param == "late_interaction"


def test_the_settings_of_its_token_vectors_are_kept_by_a_build(tmp_path: Path) -> None:
    create(tmp_path / "index", late_interaction="stored", late_dims=8, late_bits=4)
    settings, _ = keep_settings(BuildSettings(source="corpus.jsonl", index=str(tmp_path / "index")))
    assert (settings.late_interaction, settings.late_dims, settings.late_bits) == ("auto", 8, 4)
