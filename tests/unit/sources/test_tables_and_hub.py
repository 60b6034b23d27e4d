"""Delta tables, read by their log, and files of the Hugging Face hub, by a file system that is made for the test."""

import datetime
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from fsspec.implementations.memory import MemoryFileSystem

from shoal.errors import InvalidArgument
from shoal.indexing.plan import make_plan
from shoal.settings import BuildSettings
from shoal.sources import hub
from shoal.sources.files import opened
from tests.support.documents import pdf
from tests.support.reading import ENCODER, json_lines
from tests.support.source_records import GOOD, Read

# --- Delta ----------------------------------------------------------------------------------------------------------

ROWS = {
    "id": ["1", "2", "3", "4"],
    "text": ["one", "two", "three", "four"],
    "year": [2020, 2021, 2021, None],
    "lang": ["en", "é/x y", "é/x y", "en"],
    "day": [datetime.date(2020, 1, number) for number in (1, 2, 2, 3)],
}


def as_rows(found: Any) -> list[dict[str, Any]]:
    rows = [{"id": item.id, "text": item.text, **item.metadata} for item in found.passages]
    return sorted(rows, key=lambda row: row["id"])


def test_a_delta_table_is_read_at_its_current_version(folder: Path, read: Read) -> None:
    table = str(folder)
    write_deltalake(table, pa.table(ROWS), partition_by=["year", "lang", "day"])
    DeltaTable(table).delete("id = '2'")
    DeltaTable(table).update(predicate="id = '1'", updates={"text": "'another'"})
    more = {name: [values[0]] for name, values in ROWS.items()} | {"id": ["5"], "text": ["five"]}
    write_deltalake(table, pa.table(more), mode="append")
    found = read(folder)
    assert len(list(folder.rglob("*.parquet"))) > len(found.plan.files)
    # The rows are those that deltalake itself reads.
    own = [
        {name: str(value) if name == "day" else value for name, value in row.items() if value is not None}
        for row in DeltaTable(table).to_pyarrow_table().to_pylist()
    ]
    assert as_rows(found) == sorted(own, key=lambda row: row["id"])
    assert {row["id"]: row.get("year") for row in as_rows(found)} == {"1": 2020, "3": 2021, "4": None, "5": 2020}
    assert found.plan.left_out["of earlier versions of the table"] == 2
    assert found.plan.remarks == []


def test_a_table_without_partitions(folder: Path, read: Read) -> None:
    for mode in ("error", "overwrite"):
        write_deltalake(str(folder), pa.table({"id": [mode], "text": ["x"]}), mode=mode)  # type: ignore[call-overload]
    assert [passage.id for passage in read(folder).passages] == ["overwrite"]
    with pytest.raises(InvalidArgument, match="holds Delta tables; name the folder of one of them"):
        read(folder.parent)
    # A glob reads what it names.
    assert {passage.id for passage in read(f"{folder}/*.parquet").passages} == {"error", "overwrite"}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("deletion_vectors", [1], "marks deleted rows in deletion vectors"),
        ("metadata", SimpleNamespace(configuration={"delta.columnMapping.mode": "name"}), "maps its columns to other"),
    ],
    ids=["deletion vectors", "mapped columns"],
)
def test_what_files_alone_do_not_tell_is_refused(
    name: str, value: Any, reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_deltalake(str(folder), pa.table({"id": ["1"], "text": ["x"]}))
    monkeypatch.setattr(DeltaTable, name, lambda self: value)
    with pytest.raises(InvalidArgument, match=reason):
        make_plan(BuildSettings(source=str(folder), index="root"), ENCODER)


def test_a_damaged_table_or_a_missing_library_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_deltalake(str(folder), pa.table({"id": ["1"], "text": ["x"]}))
    settings = BuildSettings(source=str(folder), index="root")
    (data,) = folder.glob("*.parquet")
    pq.write_table(pa.table({"id": ["2"], "text": ["x"]}), folder / "other.parquet")
    data.unlink()
    with pytest.raises(InvalidArgument, match=r"names part-.*, which is not there"):
        make_plan(settings, ENCODER)
    (log,) = folder.glob("_delta_log/*.json")
    log.write_text("nothing of a log")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        make_plan(settings, ENCODER)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InvalidArgument, match=r"is a Delta table, .* pip install 'shoal\[delta\]'"):
        make_plan(settings, ENCODER)


# --- the hub --------------------------------------------------------------------------------------------------------


class HubFiles(MemoryFileSystem):
    """Files as the hub shows them: without times, with digests of their content."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012 - as the class it is made from has it
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hf://").strip("/")

    def _shown(self, info: dict[str, Any]) -> dict[str, Any]:
        shown = {"name": info["name"].lstrip("/"), "size": info["size"], "type": info["type"]}
        if info["type"] == "file":
            shown["blob_id"] = str(hash(self.store[info["name"]].getvalue()))
        return shown

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._shown(super().info(path, **options))

    def find(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        found = super().find(path, *arguments, **options)
        return {name.lstrip("/"): self._shown({**info, "name": name}) for name, info in found.items()}


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubFiles]:
    made = HubFiles(skip_instance_cache=True)
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: made)
    hub.hub_filesystem.cache_clear()
    yield made
    HubFiles.store.clear()
    hub.hub_filesystem.cache_clear()


def test_sources_on_the_hub(files: HubFiles, read: Read) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["7"], "text": ["a row"]}), table)
    base = "hf://datasets/me/fish/"
    for name, data in {
        "lines/a.jsonl": json_lines({**GOOD, "id": "1"}),
        "rows/split=train/a.parquet": table.getvalue(),
        "docs/a.md": b"# Cod\n\nwords",
        "docs/b.pdf": pdf(["A page."]),
    }.items():
        files.pipe(base + name, data)
    assert [passage.id for passage in read(f"{base}lines").passages] == ["1"]
    assert [passage.id for passage in read(f"{base}lines/a.jsonl").passages] == ["1"]
    assert [passage.metadata for passage in read(f"{base}rows").passages] == [{"split": "train"}]
    documents = [(passage.id, passage.title) for passage in read(f"{base}docs").passages]
    assert documents == [(f"{base}docs/a.md#1", "Cod"), (f"{base}docs/b.pdf#1", None)]
    with pytest.raises(InvalidArgument, match="does not exist"):
        read(f"{base}nothing")


def test_another_content_is_another_file(files: HubFiles, read: Read) -> None:
    source = "hf://datasets/me/fish/a.jsonl"
    files.pipe(source, json_lines({**GOOD, "id": "1"}))
    before = read(source).plan
    files.pipe(source, json_lines({**GOOD, "id": "2"}))
    with pytest.raises(InvalidArgument, match="has changed since the plan was made"), opened(before.files[0]):
        pass
    assert read(source).plan.hash != before.hash


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hub_filesystem.cache_clear()
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: (_ for _ in ()).throw(ImportError("huggingface_hub")))
    with pytest.raises(InvalidArgument, match=r"hf:// needs huggingface_hub: pip install 'shoal\[hub\]'"):
        hub.hub_filesystem()
