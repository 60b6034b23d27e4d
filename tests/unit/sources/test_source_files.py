"""Which files a source names, and files that are damaged, change or may not be read."""

import errno
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.errors import InvalidArgument, Unavailable
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexing.plan import make_plan
from shoal.indexing.spool import spool_file
from shoal.indexing.unit_input import read_unit
from shoal.records import Passage
from shoal.settings import BuildSettings
from shoal.sources import Rejected
from shoal.sources.files import content, readable
from tests.support.reading import ENCODER, Reading, json_lines

Read = Callable[..., Reading]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return lambda source, **values: Reading(source, tmp_path / "root", **values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.mkdir()
    return path


GOOD = {"id": "good", "text": "a good passage"}

# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [10, 10_000])
def test_a_truncated_file_keeps_its_good_records(unit: int, folder: Path, read: Read) -> None:
    noise = random.Random(1)
    records = [{"id": str(number), "text": noise.randbytes(30).hex()} for number in range(2000)]
    packed = gzip.compress(json_lines(*records))
    (folder / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found = read(folder / "a.jsonl.gz", unit_passages=unit)
    kept = len(found.passages)
    assert 900 < kept < 1100
    assert [passage.id for passage in found.passages] == [str(number) for number in range(kept)]
    assert found.items[-1][0] == {"file": "a.jsonl.gz", "line": kept + 1}
    assert found.reasons == [
        "the file is damaged (Truncated compressed stream): nothing can be read from here on",
    ]


def test_a_file_that_is_no_gzip(folder: Path, read: Read) -> None:
    (folder / "a.jsonl.gz").write_bytes(json_lines(GOOD))
    with pytest.raises(InvalidArgument, match=r"a\.jsonl\.gz is no gzip file"):
        read(folder / "a.jsonl.gz")


def test_files_of_which_nothing_can_be_read_are_left_out_and_reported(
    folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": str(number), "text": "x"} for number in range(20)]
    for name in ("b", "d"):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(json_lines(*rows)))
    (folder / "a.jsonl").write_bytes(json_lines(*rows))
    (folder / "c.jsonl.gz").write_bytes(b"no gzip")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "a.jsonl" not in str(path) and access(path, mode))
    found = read(folder, unit_passages=7)
    assert [place for place, item in found.items if isinstance(item, str)] == [
        {"file": "a.jsonl"},
        {"file": "c.jsonl.gz"},
    ]
    assert found.reasons[0] == "the file may not be read; check its permissions"
    assert found.reasons[1].startswith("the file is no gzip file")
    assert [passage.id for passage in found.passages] == [row["id"] for row in rows] * 2
    with pytest.raises(InvalidArgument, match=r"c\.jsonl\.gz is no gzip file"):
        read(folder / "c.jsonl.gz")


def test_a_text_file_that_may_not_be_read_is_left_out(
    folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"text of {name}")
    monkeypatch.setattr(os, "access", lambda path, mode: "b.txt" not in str(path))
    found = read(folder)
    assert [passage.text for passage in found.passages] == ["text of a", "text of c"]
    assert [(place, item) for place, item in found.items if isinstance(item, str)] == [
        ({"file": "b.txt"}, "the file may not be read; check its permissions")
    ]


def damage_a_page(path: Path, group: int) -> None:
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(1)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)


@pytest.mark.parametrize("unit", [130, 300])
def test_a_damaged_page_costs_its_row_group_and_no_more(unit: int, folder: Path, read: Read) -> None:
    rows = [{"id": str(number), "text": random.Random(number).randbytes(40).hex()} for number in range(1500)]
    path = folder / "a.parquet"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, row_group_size=500, write_page_checksum=True, use_dictionary=False)
    whole = [passage.id for passage in read(path, unit_passages=unit).passages]
    assert whole == [row["id"] for row in rows]
    damage_a_page(path, group=1)
    (folder / "b.parquet").write_bytes(b"PAR1 but nothing else")
    found = read(folder, unit_passages=unit)
    lost = {int(identity) for identity in set(whole) - {passage.id for passage in found.passages}}
    assert lost >= set(range(500, 1000))
    assert len(lost) < 500 + unit  # and the rest of the unit that the row group ends in
    assert next(place for place, item in found.items if isinstance(item, str)) == {"file": "a.parquet", "row": 501}
    assert found.reasons[0].startswith("the file is damaged (")
    assert sum(rejected.records for rejected in found.rejected) == len(lost) + 1  # a file of which nothing is known
    assert found.reasons[-1].startswith("the file is no whole Parquet file")
    last = [place for place, item in found.items if isinstance(item, Passage)][-1]
    assert last == {"file": "a.parquet", "row": 1500}


def test_a_damaged_page_of_a_large_row_group_ends_the_file_there(folder: Path, read: Read) -> None:
    rows = [{"id": str(number), "text": random.Random(number).randbytes(40).hex()} for number in range(4000)]
    path = folder / "a.parquet"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, path, data_page_size=4096, write_page_checksum=True, use_dictionary=False)
    damage_a_page(path, group=0)
    found = read(path, unit_passages=50)
    assert found.plan.files[0].pieces
    kept = [passage.id for passage in found.passages]
    assert 0 < len(kept) < 2100
    assert kept == [row["id"] for row in rows[: len(kept)]]
    (reason,) = found.reasons
    assert reason.startswith("the file is damaged (")
    assert found.items[-1][0] == {"file": "a.parquet", "row": len(kept) + 1}


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file() -> None:
    class Stream:
        def seek(self, place: int) -> None: ...

        def read(self, size: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"), content(Stream()):  # type: ignore[arg-type]
        raise pa.ArrowInvalid("not a page")


def test_a_json_array_is_no_json_lines(folder: Path, read: Read) -> None:
    (folder / "a.json").write_text(json.dumps([GOOD], indent=1))
    with pytest.raises(InvalidArgument, match="JSON array"):
        read(folder / "a.json")


def test_a_file_that_changes_or_vanishes(folder: Path, read: Read) -> None:
    path = folder / "a.jsonl"
    path.write_bytes(json_lines(GOOD))
    found = read(path)
    path.write_bytes(json_lines(GOOD, GOOD))
    with pytest.raises(InvalidArgument, match=r"a\.jsonl has changed since the plan was made"):
        list(read_unit(found.plan, found.plan.units[0], found.storage))
    path.unlink()
    with pytest.raises(InvalidArgument, match=r"a\.jsonl has vanished"):
        list(read_unit(found.plan, found.plan.units[0], found.storage))


def test_a_file_that_may_not_be_read(folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(GOOD))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(InvalidArgument, match=r"a\.jsonl may not be read; check its permissions"):
        read(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("When reading 'b/a.jsonl': AWS Error NETWORK_CONNECTION during GetObject: curlCode: 28"), Unavailable),
        (OSError(errno.EIO, "Input/output error"), Unavailable),
        (OSError("When reading 'b/a.jsonl': AWS Error ACCESS_DENIED during GetObject"), InvalidArgument),
        (PermissionError(errno.EACCES, "Permission denied"), InvalidArgument),
        (FileNotFoundError(errno.ENOENT, "No such file"), InvalidArgument),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), InvalidArgument),
        (pa.ArrowInvalid("no footer"), InvalidArgument),
    ],
)
def test_a_failure_that_may_pass_is_told_from_one_that_will_not(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"input file a\.jsonl"), readable("a.jsonl"):
        raise error


def test_a_piece_that_cannot_be_read_at_the_moment_is_named(
    folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(GOOD)))
    found = read(folder / "a.jsonl.gz")
    monkeypatch.setattr(Storage, "open_input", lambda storage, path: pa.PythonFile(Failing(), mode="r"))
    with pytest.raises(Unavailable, match=r"spool/000000-00000000\.zst cannot be reached"):
        list(read_unit(found.plan, found.plan.units[0], found.storage))


def test_a_spooled_file_is_not_spooled_again(folder: Path, read: Read) -> None:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(*[GOOD] * 10)))
    found = read(folder / "a.jsonl.gz", unit_passages=4)
    assert found.plan.files[0].pieces == 3
    piece = layout.spool(found.plan.hash, 0, 1)
    whole = found.storage.read(piece)
    found.storage.delete(piece)  # clearing the staging folder was interrupted
    assert spool_file(found.plan, 0, found.storage).pieces == 3
    assert found.storage.read(piece) == whole
    (folder / "a.jsonl.gz").unlink()
    assert spool_file(found.plan, 0, found.storage).pieces == 3
    found.storage.delete(layout.spool_commit(found.plan.hash, 0))
    with pytest.raises(InvalidArgument, match="vanished"):
        spool_file(found.plan, 0, found.storage)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.parquet"])
def test_units_of_a_file_whose_records_grow_are_bounded_by_bytes(
    name: str, folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("plan", "spool"):
        monkeypatch.setattr(f"shoal.indexing.{module}.UNIT_BYTES", 10_000)
    rows = [{"id": str(number), "text": "x" * (10 if number < 900 else 4000)} for number in range(1000)]
    match name:
        case "a.jsonl.gz":
            (folder / name).write_bytes(gzip.compress(json_lines(*rows)))
        case "a.csv":
            (folder / name).write_text("".join(["id,text\n", *(f"{row['id']},{row['text']}\n" for row in rows)]))
        case _:
            pq.write_table(pa.Table.from_pylist(rows), folder / name, use_dictionary=False)
    found = read(folder / name)
    assert found.plan.unit_records > 10
    assert [passage.id for passage in found.passages] == [row["id"] for row in rows]
    units = [list(read_unit(found.plan, unit, found.storage)) for unit in found.plan.units]
    sizes = [sum(len(item[1].text) for item in unit if not isinstance(item, Rejected)) for unit in units]
    assert max(sizes) < 10_000 + 4000


def test_the_head_is_read_before_spooling(folder: Path, tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": "x"} for number in range(50)]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(*rows)))
    (folder / "b.csv").write_text("id,text\n" + "".join(f"{row['id']},x\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "c.parquet")
    (folder / "d.jsonl").write_bytes(json_lines(*rows))
    for name in ("a.jsonl.gz", "b.csv", "c.parquet", "d.jsonl"):
        settings = BuildSettings(source=str(folder / name), index="root", unit_passages=1)
        plan = make_plan(settings, ENCODER)
        found = list(read_unit(plan, plan.head, Storage(str(tmp_path))))
        assert [item[1].id for item in found if not isinstance(item, Rejected)] == [row["id"] for row in rows]


# --- which files ----------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(json_lines({**GOOD, "_id": name}))


def names(source: Path | str, **values: Any) -> list[str]:
    plan = make_plan(BuildSettings(**{"source": str(source), "index": "root", **values}), ENCODER)
    return [plan.source.format, *(file.name for file in plan.files)]


def test_a_folder_is_read_in_the_order_of_its_paths(folder: Path) -> None:
    touch(
        folder, "b.jsonl", "a/z.jsonl.gz".removesuffix(".gz"), "a/y.ndjson", ".hidden.jsonl", ".git/x.jsonl", "_SUCCESS"
    )
    assert names(folder) == ["jsonl", "a/y.ndjson", "a/z.jsonl", "b.jsonl"]
    assert names(f"file://{folder}") == ["jsonl", "a/y.ndjson", "a/z.jsonl", "b.jsonl"]


def test_globs(folder: Path) -> None:
    touch(folder, "a1.jsonl", "a2.jsonl", "b1.jsonl", "sub/a3.jsonl", "sub/deep/a4.jsonl", "a5.json", "[x].jsonl")
    assert names(folder / "a*.jsonl") == ["jsonl", "a1.jsonl", "a2.jsonl"]
    assert names(folder / "**" / "a*.jsonl") == [
        "jsonl",
        "a1.jsonl",
        "a2.jsonl",
        "sub/a3.jsonl",
        "sub/deep/a4.jsonl",
    ]
    assert names(folder / "s*" / "*.jsonl") == ["jsonl", "sub/a3.jsonl"]
    assert names(folder / "[!a]?.jsonl") == ["jsonl", "b1.jsonl"]
    assert names(folder / "[x].jsonl") == ["jsonl", "[x].jsonl"]
    with pytest.raises(InvalidArgument, match="holds no files"):
        names(folder / "none*")


def test_a_beir_folder_is_its_corpus(folder: Path) -> None:
    touch(folder, "corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    assert names(folder) == ["beir", "corpus.jsonl"]
    assert names(folder, format="beir") == ["beir", "corpus.jsonl"]
    assert names(folder / "corpus.jsonl") == ["jsonl", "corpus.jsonl"]


def test_a_named_format_takes_files_of_any_name(folder: Path) -> None:
    touch(folder, "part-1", "part-2")
    assert names(folder / "part-*", format="jsonl") == ["jsonl", "part-1", "part-2"]
    assert names(folder / "part-1", format="jsonl") == ["jsonl", "part-1"]


def test_of_a_mixed_folder_the_named_format_is_taken(folder: Path) -> None:
    touch(folder, "a.jsonl", "README.md")
    with pytest.raises(InvalidArgument, match=r"several formats \(jsonl, text\): 1 x \.md, 1 x \.jsonl; set format"):
        names(folder)
    assert names(folder, format="jsonl") == ["jsonl", "a.jsonl"]
    with pytest.raises(InvalidArgument, match="holds no parquet files"):
        names(folder, format="parquet")


@pytest.mark.parametrize(
    ("made", "asked", "reason"),
    [
        ([], "", "holds no files"),
        ([], "absent", "does not exist"),
        (["a.png", "b"], "", "no files of a known format: 1 x .png, 1 x no extension; set format to one of"),
        (["a.png"], "a.png", "no files of a known format"),
    ],
)
def test_no_input(made: list[str], asked: str, reason: str, folder: Path) -> None:
    touch(folder, *made)
    with pytest.raises(InvalidArgument, match=reason):
        names(folder / asked)


def test_what_an_index_root_within_the_source_stores_is_no_input(folder: Path) -> None:
    stored = ("CURRENT", "versions/v/rejected.jsonl", "staging/p/shards/00000.duplicates.jsonl", "staging/p/a.parquet")
    touch(folder, "a.jsonl", "versions.jsonl", "index/mine.jsonl", *(f"index/{path}" for path in stored))
    index = str(folder / "index")
    assert names(folder, index=index) == ["jsonl", "a.jsonl", "index/mine.jsonl", "versions.jsonl"]
    assert names(index, index=index) == ["jsonl", "mine.jsonl"]
    assert names(folder / "index" / "**" / "*", index=index, format="jsonl") == ["jsonl", "mine.jsonl"]


def test_a_name_that_is_not_utf_8_is_refused_with_the_remedy(folder: Path) -> None:
    touch(folder, "a.jsonl")
    (folder / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(json_lines(GOOD))
    with pytest.raises(InvalidArgument, match=r"caf\\xe9\.jsonl.* not UTF-8; rename it") as caught:
        names(folder)
    assert caught.value.param == "source"


def test_upper_case_extensions_are_known(folder: Path, read: Read) -> None:
    (folder / "CORPUS.JSONL.GZ").write_bytes(gzip.compress(json_lines(GOOD)))
    assert [passage.id for passage in read(folder).passages] == ["good"]


def test_empty_files_are_no_input(folder: Path) -> None:
    (folder / "a.jsonl").touch()
    with pytest.raises(InvalidArgument, match="is empty"):
        names(folder)
    touch(folder, "b.jsonl")
    assert names(folder) == ["jsonl", "a.jsonl", "b.jsonl"]
