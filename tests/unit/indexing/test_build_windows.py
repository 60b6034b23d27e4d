"""Indexes whose long passages are read in windows: built, written to while served, and built again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.index_root.log import Log
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.base import keep_passage_tokens
from shoal.indexing.compaction import compact
from shoal.indexing.publish import length_remarks
from shoal.records import FloatArray
from shoal.settings import BuildSettings, CompactSettings
from shoal.shard.stored_rows import StoredRows
from tests.support import tiny_models
from tests.support.building import jsonl
from tests.support.incremental import Build, publish

BUDGET, LENGTH = 150, 64
TORCH: dict[str, Any] = {"backend": "torch", "device": "cpu", "dtype": "float32"}
LONG = " ".join(f"{word} otter bone" for word in tiny_models.WORDS * 3)
"""117 tokens."""
RECORDS: list[dict[str, Any]] = [
    {"id": "short", "text": "red fish"},
    {"id": "long", "title": "Heron of the blue bone", "text": LONG},
    {"id": "longest", "text": f"vitamin disease {LONG} {LONG}"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"))


def build(folder: Path, model: Path, records: list[dict[str, Any]] = RECORDS, **options: Any) -> Any:
    source = jsonl(folder / "source.jsonl", records)
    return Build(folder / "index", source, encoder=str(model), shards=1, **TORCH, **options)


def content(record: dict[str, Any]) -> str:
    return f"{record['title']} {record['text']}" if "title" in record else str(record["text"])


def read_in_windows(model: Path, text: str) -> FloatArray:
    """The normalised mean of what sentence-transformers makes of each window of a text of known words."""
    from sentence_transformers import SentenceTransformer

    words = text.lower().split()[: BUDGET - 2]  # [CLS], [SEP]
    head, rest = words[:6], words[6:]  # 3/32 of 64 tokens, and windows of 25/32 with a step of 3/4 of that
    starts = [0]
    while starts[-1] + 50 < len(rest):
        starts.append(starts[-1] + 37)
    parts = [words] if len(words) <= LENGTH - 2 else [[*head, *rest[start : start + 50]] for start in starts]
    reference = SentenceTransformer(str(model), device="cpu")
    mean = reference.encode([" ".join(part) for part in parts], normalize_embeddings=True).mean(axis=0)
    unit: FloatArray = mean / np.linalg.norm(mean)
    return unit


def vectors(index: Any, ids: list[str]) -> FloatArray:
    found = {passage.id: passage.vector for passage in index.fetch(ids, include=["vector"]).passages}
    return np.array([found[id_] for id_ in ids], np.float32)


def test_an_index_holds_the_means_of_windows_and_so_does_what_is_written_to_it(model: Path, tmp_path: Path) -> None:
    manifest, _ = publish(build(tmp_path, model, passage_tokens=BUDGET))
    assert manifest.encoder.passage_tokens == BUDGET
    expected = np.stack([read_in_windows(model, content(record)) for record in RECORDS])
    ids = [record["id"] for record in RECORDS]
    root = str(tmp_path / "index")
    with shoal.open(root, **TORCH, reranker="none") as index:
        np.testing.assert_allclose(vectors(index, ids), expected, atol=1e-3)  # kept in float16
        embedded = index.embed([content(record) for record in RECORDS], input_type="passage")
        np.testing.assert_allclose(embedded.vectors, expected, atol=1e-5)
        assert [text.truncated for text in embedded.data] == [False, False, True]
        index.upsert([{**record, "id": f"live-{record['id']}"} for record in RECORDS])
        np.testing.assert_allclose(vectors(index, [f"live-{id_}" for id_ in ids]), expected, atol=1e-3)
    compacted = compact(CompactSettings(index=root), Log.open(Storage(root)))
    assert compacted is not None
    assert compacted.encoder.passage_tokens == BUDGET
    rows = StoredRows(Storage(root), compacted, 0)
    assert rows.vectors(np.arange(6)).shape == (6, 32)


def test_an_index_of_before_goes_on_as_it_was_built(model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    manifest, _ = publish(build(tmp_path, model, passage_tokens=0))
    assert b"passage_tokens" not in manifest.to_bytes()
    reference = SentenceTransformer(str(model), device="cpu")
    truncated = reference.encode([content(record) for record in RECORDS], normalize_embeddings=True)
    with shoal.open(str(tmp_path / "index"), **TORCH, reranker="none") as index:
        embedded = index.embed([content(record) for record in RECORDS], input_type="passage")
        np.testing.assert_allclose(embedded.vectors, truncated, atol=1e-5)
        assert [text.truncated for text in embedded.data] == [False, True, True]
        index.upsert([{"id": "live", "text": LONG}])
        (live,) = vectors(index, ["live"])
        np.testing.assert_allclose(live, reference.encode(LONG, normalize_embeddings=True), atol=1e-3)


def settings(folder: Path, model: Path | str, **options: Any) -> BuildSettings:
    return BuildSettings(source="s", index=str(folder / "index"), encoder=str(model), **options)


@pytest.mark.parametrize("budget", [0, BUDGET])
def test_a_build_reads_passages_as_the_current_version_unless_asked(model: Path, tmp_path: Path, budget: int) -> None:
    default = BuildSettings.model_fields["passage_tokens"].default
    assert keep_passage_tokens(settings(tmp_path, model)).passage_tokens == default  # there is no version
    publish(build(tmp_path, model, passage_tokens=budget))
    assert keep_passage_tokens(settings(tmp_path, model)).passage_tokens == budget
    elsewhere = f"/somewhere/else/{model.name}"
    assert keep_passage_tokens(settings(tmp_path, elsewhere)).passage_tokens == budget
    assert keep_passage_tokens(settings(tmp_path, model, passage_tokens=99)).passage_tokens == 99
    assert keep_passage_tokens(settings(tmp_path, model, reembed=True)).passage_tokens == default
    assert keep_passage_tokens(settings(tmp_path, "hashing")).passage_tokens == default


def test_vectors_are_copied_from_a_version_that_was_read_alike(model: Path, tmp_path: Path) -> None:
    publish(build(tmp_path, model, passage_tokens=BUDGET))
    more = [*RECORDS, {"id": "new", "text": "a blue fish"}]
    _, encoded = publish(build(tmp_path, model, more, passage_tokens=BUDGET))
    assert encoded == ["a blue fish"]
    other = build(tmp_path, model, more, passage_tokens=0)
    assert "differs in passage_tokens" in str(other.remark)
    assert other.plan.base is None


def test_the_plan_of_a_build_without_windows_is_that_of_before(model: Path, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "source.jsonl", RECORDS)
    options = {"encoder": str(model), **TORCH}
    plain, fitting, windowed = (
        Build(tmp_path / "index", source, passage_tokens=budget, **options).plan for budget in (0, LENGTH, BUDGET)
    )
    assert b"passage_tokens" not in plain.to_bytes()
    assert plain.content_hash == fitting.content_hash != windowed.content_hash


def test_token_vectors_of_the_beginning_are_stored(model: Path, tmp_path: Path) -> None:
    stored = {"late_interaction": "stored", "late_dims": 8}
    manifest: Manifest = publish(build(tmp_path, model, passage_tokens=BUDGET, **stored))[0]
    rows = StoredRows(Storage(str(tmp_path / "index")), manifest, 0)
    ids, _ = rows.passages(np.arange(3))
    lengths = dict(zip(ids, map(len, rows.codes(np.arange(3))), strict=True))
    assert lengths == {"short": 2, "long": LENGTH - 2, "longest": LENGTH - 2}


def test_what_is_longer_than_the_budget_is_told(model: Path, tmp_path: Path) -> None:
    told = build(tmp_path, model, passage_tokens=BUDGET).embed()
    (remark,) = length_remarks(told.plan, told.tally)
    assert "1 of 3 passages are as long as the 150 tokens that the encoder reads" in remark
    told = build(tmp_path, model, passage_tokens=0).embed()
    (remark,) = length_remarks(told.plan, told.tally)
    assert "2 of 3 passages are as long as the 64 tokens that the encoder reads" in remark
    assert "--passage-tokens 2048" in remark
