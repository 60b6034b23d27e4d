"""Arrow files that were damaged, or written to be harmful, with a new checksum in the manifest."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shoal.errors import CorruptIndex
from shoal.index_root.arrow_files import checked, open_batches

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("text", pa.large_string())])


def write(path: Path, *batches: pa.RecordBatch, schema: pa.Schema = SCHEMA, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def good(count: int = 100) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([f"p{row}" for row in range(count)]),
            pa.array(["é" * row for row in range(count)], pa.large_string()),
        ],
        schema=SCHEMA,
    )


def with_offsets(offsets: list[int], path: Path) -> Path:
    """A file of two ids that begin and end at these places of a few bytes; Arrow itself would not write it."""
    before = np.array([0, 3, 5], np.int32)
    batch = pa.record_batch([pa.array(["abc", "de"]), pa.nulls(2, pa.large_string())], schema=SCHEMA)
    data = write(path, batch).read_bytes()
    assert data.count(before.tobytes()) == 1
    path.write_bytes(data.replace(before.tobytes(), np.array(offsets, np.int32).tobytes()))
    return path


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    batches = [good(), good(0), good(7)]
    assert [batch.to_pylist() for batch in open_batches(write(tmp_path / "a.arrow", *batches), SCHEMA)] == [
        batch.to_pylist() for batch in batches
    ]
    assert open_batches(write(tmp_path / "b.arrow"), SCHEMA) == []


@pytest.mark.parametrize(
    "offsets",
    [[0, 4, 2**30], [0, 2**31 - 1, 2**31 - 1], [0, 6, 3], [-5, 2, 4], [0, 4, 9], [2**30, 2**30 + 1, 2**30 + 2]],
)
def test_lengths_that_lead_out_of_the_file_are_refused(offsets: list[int], tmp_path: Path) -> None:
    """Reading such an id ended the process."""
    with pytest.raises(CorruptIndex, match=r"a\.arrow"):
        open_batches(with_offsets(offsets, tmp_path / "a.arrow"), SCHEMA)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", good(3))
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(CorruptIndex, match=r"a\.arrow"):
        open_batches(path, SCHEMA)


def test_missing_values_are_refused_where_there_have_to_be_some(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(["a", None]), pa.array(["x", None], pa.large_string())], schema=SCHEMA)
    with pytest.raises(pa.ArrowInvalid, match="column id has missing values"):
        checked(batch)
    with pytest.raises(CorruptIndex, match="column id has missing values"):
        open_batches(write(tmp_path / "a.arrow", batch), SCHEMA)


def test_other_columns_and_compressed_ones_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", good(), compression="zstd")
    with pytest.raises(CorruptIndex, match="compressed"):
        open_batches(path, SCHEMA)
    other = pa.schema([pa.field("id", pa.int32())])
    path = write(tmp_path / "b.arrow", pa.record_batch([pa.array([1], pa.int32())], schema=other), schema=other)
    with pytest.raises(CorruptIndex, match="does not have the columns id, text"):
        open_batches(path, SCHEMA)


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_byte_is_refused_or_harmless(seed: int, tmp_path: Path) -> None:
    """Whatever is opened can be read to its end; that this process lives is the test."""
    whole = write(tmp_path / "a.arrow", good(), good()).read_bytes()
    random, opened = np.random.default_rng(seed), 0
    for _ in range(300):
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "a.arrow").write_bytes(data)
        try:
            batches = open_batches(tmp_path / "a.arrow", SCHEMA)
        except CorruptIndex:
            continue
        opened += 1
        assert all(len(batch.to_pylist()) == batch.num_rows for batch in batches)
    assert 0 < opened < 300
