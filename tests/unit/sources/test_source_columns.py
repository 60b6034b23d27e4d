"""What Parquet files give, and vectors that come with the records, whatever the format."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.errors import InvalidArgument
from shoal.records import Passage
from tests.support.reading import json_lines
from tests.support.source_records import GOOD, Read

# --- Parquet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [3, 1000])
@pytest.mark.parametrize("group", [5, 100])
def test_parquet_rows_are_read_once(unit: int, group: int, folder: Path, read: Read) -> None:
    rows = [{"id": number, "text": f"text {number}", "n": number / 2, "tags": ["a"]} for number in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=group)
    found = read(folder / "a.parquet", unit_passages=unit)
    assert found.passages == [
        Passage(str(row["id"]), row["text"], None, {"n": row["n"], "tags": ["a"]})  # type: ignore[arg-type]
        for row in rows
    ]
    assert [place for place, _ in found.items] == [{"file": "a.parquet", "row": row} for row in range(1, 101)]
    assert found.plan.files[0].pieces == (34 if group == 100 and unit == 3 else None)


def test_parquet_types_become_metadata(folder: Path, read: Read) -> None:
    table = pa.table(
        {
            "id": pa.array(["1"]),
            "text": pa.array(["x"], pa.large_string()),
            "day": pa.array([18262], pa.int32()).cast(pa.date32()),
            "cost": pa.array(["1.50"]).cast(pa.decimal128(5, 2)),
            "kind": pa.array(["k"]).dictionary_encode(),
            "nothing": pa.nulls(1),
            "metadata": pa.array([{"url": "u", "none": None}]),
        }
    )
    pq.write_table(table, folder / "a.parquet")
    assert read(folder / "a.parquet").passages[0].metadata == {
        "url": "u",
        "day": "2020-01-01",
        "cost": 1.5,
        "kind": "k",
    }


def test_bad_parquet_rows(folder: Path, read: Read) -> None:
    text = pa.array([b"good", b"\xff", None, b""]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["1", "2", "3", "4"], "text": text}), folder / "a.parquet")
    found = read(folder / "a.parquet")
    assert found.passages == [Passage("1", "good")]
    assert found.reasons == [
        "the field 'text' is not valid UTF-8",
        "the text field 'text' is missing or empty",
        "the text field 'text' is empty",
    ]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"key": ["1"], "text": ["x"]}, "no column 'id' \\(columns: key, text\\)"),
    ],
)
def test_parquet_columns_that_cannot_be_passages(columns: Any, reason: str, folder: Path, read: Read) -> None:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    with pytest.raises(InvalidArgument, match=reason):
        read(folder / "a.parquet")


NESTED = {"id": ["1"], "text": ["x"], "vector": [[0.5]], "refs": [[{"id": "a"}]], "n": [1]}


def test_parquet_columns_that_cannot_be_metadata_are_left_out(folder: Path, read: Read) -> None:
    pq.write_table(pa.table(NESTED), folder / "a.parquet")
    found = read(folder / "a.parquet")
    assert found.passages == [Passage("1", "x", None, {"n": 1})]
    assert found.plan.files[0].left_out == ["vector", "refs"]
    assert found.plan.files[0].columns == ["id", "text", "n"]


@pytest.mark.parametrize("changes", [{"metadata_fields": ["vector"]}, {"metadata_types": ["vector:list"]}])
def test_parquet_columns_that_are_asked_for_are_not_left_out(changes: Any, folder: Path, read: Read) -> None:
    pq.write_table(pa.table(NESTED), folder / "a.parquet")
    with pytest.raises(InvalidArgument, match=r"column 'vector' of type list<.*> cannot be metadata"):
        read(folder / "a.parquet", **changes)


def test_a_file_that_is_no_parquet(folder: Path, read: Read) -> None:
    (folder / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidArgument, match=r"a\.parquet is no whole Parquet file"):
        read(folder / "a.parquet")


# --- vectors that come with the records ------------------------------------------------------------------------------

GIVEN = [float(number) for number in range(8)]
BAD_VECTORS: list[tuple[Any, str]] = [
    (None, "the vector field 'v' is missing or null"),
    (GIVEN[:7], "the vector field 'v' has 7 numbers, the encoder's vectors have 8; name the encoder"),
    ([], "the vector field 'v' has 0 numbers"),
]


def test_vectors_of_json_lines_come_with_their_passages(read: Read, folder: Path) -> None:
    bad = [
        *BAD_VECTORS,
        ("0.5", "the vector field 'v' is a string; it must be a list of numbers"),
        ([*GIVEN[:7], "7"], "the vector field 'v' holds a string; it must be a list of numbers"),
        ([*GIVEN[:7], True], "the vector field 'v' holds a boolean"),
        ([*GIVEN[:7], None], "the vector field 'v' holds null"),
        ([*GIVEN[:7], [7]], "the vector field 'v' holds a list"),
        ([*GIVEN[:7], 10**400], "the vector field 'v' holds a number beyond float32"),
    ]
    records = [{**GOOD, "v": GIVEN, "page": 3}, *({"id": "1", "text": "x", "v": value} for value, _ in bad)]
    (folder / "a.jsonl").write_bytes(json_lines(*records, {"id": "2", "text": "x"}))
    found = read(folder, vectors_field="v")
    (passage,) = found.passages
    assert passage.metadata == {"page": 3}
    assert passage.vector is not None
    assert (passage.vector.dtype, passage.vector.tolist()) == (np.float32, GIVEN)
    assert len(found.reasons) == len(bad) + 1
    for reason, (_, words) in zip(found.reasons, [*bad, BAD_VECTORS[0]], strict=True):
        assert words in reason


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16()), pa.list_(pa.int32()), "fixed"],
    ids=str,
)
@pytest.mark.parametrize("group", [None, 3])
def test_vectors_of_parquet_are_those_of_their_rows(read: Read, folder: Path, kind: Any, group: int | None) -> None:
    fixed = kind == "fixed"
    vectors: list[Any] = [[float(number + row) for number in range(8)] for row in range(40)]
    vectors[5] = None
    if not fixed:
        vectors[9] = GIVEN[:7]
    column = pa.array(vectors, pa.list_(pa.float32(), 8) if fixed else kind)
    ids = pa.array([f"p{row}" for row in range(40)])
    pq.write_table(pa.table({"id": ids, "text": ids, "v": column}), folder / "a.parquet", row_group_size=group)
    found = read(folder, vectors_field="v", unit_passages=7)
    wanted = [row for row in range(40) if vectors[row] is not None and len(vectors[row]) == 8]
    assert [passage.id for passage in found.passages] == [f"p{row}" for row in wanted]
    assert [passage.vector.tolist() for passage in found.passages if passage.vector is not None] == [
        vectors[row] for row in wanted
    ]
    assert len(found.reasons) == 40 - len(wanted)
    for reason, (_, words) in zip(found.reasons, BAD_VECTORS, strict=False):
        assert words in reason


def test_a_column_without_lists_of_numbers_holds_no_vectors(read: Read, folder: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "text": ["x"], "v": [["a"]]}), folder / "a.parquet")
    with pytest.raises(InvalidArgument, match=r"column 'v' of type list<.*string> holds no vectors"):
        read(folder, vectors_field="v")
    with pytest.raises(InvalidArgument, match="has no column 'w'"):
        read(folder, vectors_field="w")
