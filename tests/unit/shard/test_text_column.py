"""A column of texts gives what Arrow's own scalars give."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from shoal.shard.text_column import TextColumn

TEXTS = st.lists(st.none() | st.text(max_size=5), max_size=30)


@given(texts=TEXTS, start=st.integers(0, 30), is_large=st.booleans())
def test_values_and_sizes_are_those_of_arrow(texts: list[str | None], start: int, is_large: bool) -> None:
    array = pa.array(texts, pa.large_string() if is_large else pa.string()).slice(start)
    column = TextColumn(array)
    assert [column[row] for row in range(len(array))] == array.to_pylist()
    sizes = [column.size(row) for row in range(len(array))]
    assert sizes == [len(text.encode()) if text is not None else 0 for text in array.to_pylist()]


def test_a_file_is_read_where_it_is_mapped(tmp_path: Path) -> None:
    path = f"{tmp_path}/texts.arrow"
    batch = pa.record_batch({"text": pa.array(["fish", None, "", "Ǝ"], pa.large_string())})
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    (column,) = map(TextColumn, pa.ipc.open_file(pa.memory_map(path)).get_batch(0).columns)
    assert [column[row] for row in range(4)] == ["fish", None, "", "Ǝ"]
