"""The namespaces of one shard: what is written of them, and what is counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.namespaces import namespace_of, qualified
from shoal.shard.namespaces import NAMESPACE_SCHEMA, NamespaceRows, NamespaceWriter

ROWS = st.lists(st.sampled_from(["", "a", "ab", "ü#1", "b/c"]), max_size=40)


def batch(names: list[str], first: int = 0) -> pa.RecordBatch:
    ids = [qualified(name, f"d{first + row}#1") for row, name in enumerate(names)]
    return pa.RecordBatch.from_arrays([pa.array(ids, pa.string())], ["id"])


def write(folder: Path, parts: list[list[str]]) -> NamespaceWriter:
    writer, first = NamespaceWriter(folder), 0
    blocks = []
    for part in parts:
        blocks.append((batch(part, first), None))
        first += len(part)
    assert list(writer.tee(blocks)) == blocks
    return writer


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS, st.data())
def test_rows_and_counts_are_those_of_the_ids(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str], data: st.DataObject
) -> None:
    folder, names = tmp_path_factory.mktemp("shard"), first + second
    writer = write(folder, [first, second])
    assert (writer.files == (layout.NAMESPACES,)) == any(names)
    in_memory = NamespaceRows.of_ids(pa.chunked_array([batch(first).column(0), batch(second, len(first)).column(0)]))
    if not writer.files:
        assert in_memory is None
        assert list(folder.iterdir()) == []
        return
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))), np.bool_)
    assert in_memory is not None
    for rows in (in_memory, NamespaceRows.open(folder / layout.NAMESPACES, len(names))):
        for name in ("", "a", "ab", "ü#1", "b/c", "nobody"):
            mine = [row for row, each in enumerate(names) if each == name]
            assert np.flatnonzero(rows.mask(name)).tolist() == mine
            if name:
                assert rows.rows(name).tolist() == mine
        assert rows.counts(None) == Counter(names)
        kept = Counter(name for name, is_alive in zip(names, alive.tolist(), strict=True) if is_alive)
        assert rows.counts(alive) == kept
    assert namespace_of(batch(["a"]).column(0)[0].as_py()) == "a"


def test_equal_passages_give_equal_bytes_however_they_come(tmp_path: Path) -> None:
    names = ["b", "", "a", "b", "a"]
    files = []
    for number, parts in enumerate(([names], [[name] for name in names], [names[:2], [], names[2:]])):
        (folder := tmp_path / str(number)).mkdir()
        write(folder, parts)
        files.append((folder / layout.NAMESPACES).read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(
    ("names", "rows"), [(["a"], [[3]]), (["b", "a"], [[0], [1]]), (["a", "a"], [[0], [1]]), ([], [])]
)
def test_a_file_that_says_anything_else_is_refused(tmp_path: Path, names: list[str], rows: list[list[int]]) -> None:
    columns = [pa.array(names, pa.string()), pa.array(rows, NAMESPACE_SCHEMA.field(1).type)]
    with pa.ipc.new_file(str(tmp_path / "f"), NAMESPACE_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=NAMESPACE_SCHEMA))
    with pytest.raises(CorruptIndex):
        NamespaceRows.open(tmp_path / "f", 3)
