import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import CorruptIndex
from shoal.fingerprint import Fingerprint
from shoal.index_root.manifest import (
    CorpusStatistics,
    Counts,
    FileEntry,
    Manifest,
    ShardEntry,
    ShardInfo,
    VectorIndexInfo,
)


def make_manifest(**changes: Any) -> Manifest:
    files = [
        FileEntry(path=f"shard-00000/{name}", bytes=7, sha256="ab" * 32) for name in ("vectors.faiss", "shard.json")
    ]
    fields: dict[str, Any] = {
        "version": "20261122T233411-1a2b3c4d",
        "plan": "1a2b3c4d" * 8,
        "created_at": "2026-11-22T23:34:11+00:00",
        "encoder": Fingerprint(
            model="hashing",
            weights="hashing-1",
            dim=8,
            pooling="mean",
            query_prompt="frage: ä",
            passage_prompt="",
            max_length=256,
            dtype="float32",
        ),
        "dim": 8,
        "index": VectorIndexInfo(kind="flat", search="", recall_at_10=1.0, latency_ms=0.25),
        "shards": [ShardEntry(shard=0, count=3, files=files)],
        "counts": Counts(input=5, passages=3, duplicates=1, rejected=1),
        "statistics": CorpusStatistics(text_bytes=30, mean_text_bytes=10.0),
        "build": {"source": "corpus.jsonl", "chunk_characters": None},
    }
    return Manifest(**{**fields, **changes})


def rewritten(body: dict[str, Any]) -> bytes:
    """What a writer with other ideas would have written, its checksum included."""
    plain = {key: body[key] for key in sorted(body) if key != "checksum"}
    checksum = hashlib.sha256(json.dumps(plain, indent=1, ensure_ascii=False).encode() + b"\n").hexdigest()
    return json.dumps({**plain, "checksum": checksum}, indent=1, ensure_ascii=False).encode() + b"\n"


DATA = make_manifest().to_bytes()


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert Manifest.from_bytes(DATA, "here") == make_manifest()
    assert make_manifest().to_bytes() == DATA


def test_a_manifest_from_before_there_were_filters_has_no_fields() -> None:
    body = json.loads(DATA)
    del body["fields"]
    assert Manifest.from_bytes(rewritten(body), "here") == make_manifest()
    assert make_manifest(fields={"year": "integer", "note": "mixed"}).fields == {"year": "integer", "note": "mixed"}


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_always_shows(position: int, change: int) -> None:
    data = bytearray(DATA)
    data[position] ^= change
    with pytest.raises(CorruptIndex, match="root/manifest"):
        Manifest.from_bytes(bytes(data), "root/manifest.json")


@given(st.integers(0, len(DATA) - 1))
def test_a_cut_manifest_always_shows(length: int) -> None:
    with pytest.raises(CorruptIndex):
        Manifest.from_bytes(DATA[:length], "here")


@pytest.mark.parametrize("data", [b"[]", b'"x"', b"{}", b"null", b"[" * 100_000, b'{"checksum": "\\ud800"}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptIndex):
        Manifest.from_bytes(data, "here")


def test_a_newer_format_says_who_can_read_it() -> None:
    with pytest.raises(CorruptIndex, match="read it with the Shoal that wrote it"):
        Manifest.from_bytes(rewritten({**json.loads(DATA), "format_version": 3}), "here")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(CorruptIndex, match="namespace"):
        Manifest.from_bytes(rewritten({**json.loads(DATA), "namespace": "x"}), "here")


def test_all_files_names_the_files_beside_the_shards_too() -> None:
    rejected = FileEntry(path="rejected.jsonl", bytes=0, sha256="00" * 32)
    assert [file.path for file in make_manifest(files=[rejected]).all_files()] == [
        "rejected.jsonl",
        "shard-00000/vectors.faiss",
        "shard-00000/shard.json",
    ]


def test_equal_shard_infos_are_equal_bytes() -> None:
    info = ShardInfo(shard=0, count=3, dim=8, kind="flat", text_bytes=30)
    assert info.to_bytes() == ShardInfo.model_validate_json(info.to_bytes()).to_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "../v2/shard-00000/vectors.faiss",
        "/etc/passwd",
        "shard-00000/../../v2/vectors.faiss",
        "shard-00000/./vectors.faiss",
        "shard-00000//vectors.faiss",
        "shard-00000\\vectors.faiss",
        "shard-00000/vectors.faiss/",
        "shard-00000/a\nb",
        "shard-00001/vectors.faiss",
        "",
        "shard-00000/" + "x" * 1100,
    ],
)
def test_a_file_that_does_not_lie_where_it_should_is_refused(path: str) -> None:
    body = json.loads(DATA)
    body["shards"][0]["files"][0]["path"] = path
    with pytest.raises(CorruptIndex, match="is not a valid manifest"):
        Manifest.from_bytes(rewritten(body), "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0},
        {"dim": 10**9},
        {"shards": [{"shard": 1, "count": 3, "files": []}]},
        {"shards": [{"shard": 0, "count": -1, "files": []}]},
        {"shards": [{"shard": 0, "count": 2**70, "files": []}]},
        {"shards": [{"shard": 0, "count": 3, "files": []}] * 2},
        {"files": [{"path": "rejected.jsonl", "bytes": -1, "sha256": "00" * 32}]},
        {"files": [{"path": "rejected.jsonl", "bytes": 1, "sha256": "../../../x"}]},
        {"files": [{"path": "rejected.jsonl", "bytes": 1, "sha256": "00" * 32}] * 2},
        {"counts": {"input": 0, "passages": -1, "duplicates": 0, "rejected": 1}},
        {"late": {"dims": 10**9, "bits": 2}},
        {"late": {"dims": 64, "bits": 3}},
        {"lexical": {"analyzer": "a", "language": "english", "stopwords": True, "k1": -1, "b": 0, "passages": 1,
                     "mean_length": 1}},
    ],
)  # fmt: skip
def test_numbers_that_no_build_writes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptIndex, match="is not a valid manifest"):
        Manifest.from_bytes(rewritten({**json.loads(DATA), **changes}), "here")
