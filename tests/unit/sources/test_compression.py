"""Compressed files that break off, are padded, or hold next to nothing."""

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.reading import json_lines
from tests.support.source_records import GOOD, Read


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("records", [2, 30, 400])
@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_small_truncated_file_keeps_its_good_records(
    compression: str, records: int, folder: Path, read: Read
) -> None:
    noise = random.Random(2)
    rows = [{"id": str(number), "text": noise.randbytes(40).hex()} for number in range(records)]
    data = json_lines(*rows)
    # Of zstd nothing can be read before a block is whole.
    packed = gzip.compress(data)[:-9] if compression == "gz" else zstd(data) + zstd(data)[:-9]
    (folder / f"a.jsonl.{compression}").write_bytes(packed)
    found = read(folder)
    kept = [passage.id for passage in found.passages]
    assert kept == [row["id"] for row in rows[: len(kept)]]
    assert len(kept) >= (records - 1 if compression == "gz" else records)
    assert any(reason.startswith("the file is damaged (") for reason in found.reasons)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("count", [2, 5000, 100_000])
def test_zeros_behind_a_gzip_file_are_padding(members: int, count: int, folder: Path, read: Read) -> None:
    noise = random.Random(3)
    rows = [{"id": str(number), "text": noise.randbytes(40).hex()} for number in range(count // 10 + 2)]
    half = len(rows) // members
    packed = b"".join(gzip.compress(json_lines(*rows[start : start + half])) for start in range(0, len(rows), half))
    (folder / "a.jsonl.gz").write_bytes(packed + bytes(count))
    found = read(folder)
    assert [passage.id for passage in found.passages] == [row["id"] for row in rows]
    assert not found.reasons


def test_other_bytes_behind_a_gzip_file_are_reported(folder: Path, read: Read) -> None:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(GOOD)) + b"\0\0more")
    found = read(folder)
    assert [passage.id for passage in found.passages] == ["good"]
    assert len(found.reasons) == 1


def test_a_damaged_checksum_costs_no_record(folder: Path, read: Read) -> None:
    packed = bytearray(gzip.compress(json_lines(GOOD, {**GOOD, "id": "last"})))
    packed[-6] ^= 1
    (folder / "a.jsonl.gz").write_bytes(packed)
    found = read(folder)
    assert [passage.id for passage in found.passages] == ["good", "last"]
    assert len(found.reasons) == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv.gz"])
def test_a_bomb_of_blank_lines_fills_no_unit(
    name: str, folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.indexing.spool.UNIT_BYTES", 100_000)
    records = {"jsonl": '{"id": "1", "text": "x"}', "csv": "id,text\n1,x", "tsv": "id\ttext\n1\tx"}
    data = records[name.split(".")[1]].encode() + b"\n" * 5_000_000 + b" \r\n" * 100_000
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = read(folder / name, unit_passages=1)
    assert [(passage.id, passage.text) for passage in found.passages] == [("1", "x")]
    assert len(found.plan.units) <= 2
    assert not found.reasons
