"""FORMAT.md is the specification of the index root; the code has to agree with its tables."""

import dataclasses
import json
import re
from hashlib import blake2b
from pathlib import Path
from typing import get_args

import faiss
import pyarrow as pa
import pytest

import shoal
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.index_root.document_write import DOCUMENT_SCHEMA
from shoal.index_root.log import KEY_LIFETIME_S, REMOVAL_DELAY_S
from shoal.index_root.log_entry import MOST_ENTRY_BYTES, LogEntry, LoggedRequest, encode_entry
from shoal.index_root.log_segments import SEGMENT_BYTES, SEGMENT_ENTRIES, SEGMENT_SCHEMA
from shoal.index_root.manifest import (
    FORMAT_VERSION,
    LOG_FORMAT_VERSION,
    CorpusStatistics,
    Counts,
    FileEntry,
    LateInfo,
    LexicalInfo,
    LogInfo,
    Manifest,
    ShardEntry,
    ShardInfo,
    VectorIndexInfo,
)
from shoal.index_root.versions import Current
from shoal.indexing.plan import shard_of
from shoal.late.writer import FILES as LATE_FILES
from shoal.lexical.statistics import TERM_SCHEMA
from shoal.lexical.writer import FILES
from shoal.metadata import MAX_FIELDS, FieldType
from shoal.shard.columns import ARROW_TYPES
from shoal.shard.documents import FILES as DOCUMENT_FILES
from shoal.shard.passages import PASSAGE_SCHEMA
from shoal.shard.positions import DELETED_SCHEMA
from shoal.shard.writer import BATCH_ROWS
from shoal.sparse.writer import FILES as SPARSE_FILES

TEXT = (Path(shoal.__file__).parent / "index_root" / "FORMAT.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Rows of the first table under a heading, without its own head; code marks removed."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(heading: str) -> list[str]:
    return [row[0].strip("`") for row in table(heading)]


def mentioned(heading: str, field: str) -> list[str]:
    """Names in code marks in the meaning of a field."""
    (row,) = (row for row in table(heading) if row[0] == f"`{field}`")
    return re.findall(r"`([a-z_0-9]+)`", row[2])


def test_the_title_names_the_format_version() -> None:
    assert TEXT.startswith(f"# The index root, format version {FORMAT_VERSION}\n")
    numbers = {
        "`manifest.json`": f"{FORMAT_VERSION}; {LOG_FORMAT_VERSION} with `log`",
        "`shard.json`": str(FORMAT_VERSION),
    }
    for heading, number in numbers.items():
        assert table(heading)[0] == ["`format_version`", "integer", number]


def test_the_paths_are_those_of_the_layout() -> None:
    version = "<version>"
    folder = layout.shard_dir(version, 0)
    assert names("Files") == [
        layout.CURRENT,
        layout.refusal(version),
        layout.manifest(version),
        layout.signature(version),
        layout.rejected(version),
        layout.report(version),
        layout.corpus_terms_of(version),
        f"{folder}/{layout.VECTORS}",
        f"{folder}/{layout.EXACT}",
        f"{folder}/{layout.PASSAGES}",
        f"{folder}/{layout.METADATA}",
        *(f"{folder}/{name}" for name in (*FILES, *SPARSE_FILES, *LATE_FILES, *DOCUMENT_FILES)),
        f"{folder}/{layout.POSITIONS}",
        f"{folder}/{layout.DELETED}",
        f"{folder}/{layout.NAMESPACES}",
        f"{folder}/{layout.SHARD}",
        f"{layout.LOG_ENTRIES}<position>.arrow",
        f"{layout.LOG_SEGMENTS}<first>-<last>.arrow",
        f"{layout.LOG_FLOORS}<position>",
        layout.LOG_PROBES,
        f"{layout.staging_dir('<plan>')}/",
    ]


def test_the_fields_are_those_of_the_records() -> None:
    assert names("`CURRENT`") == [field.name for field in dataclasses.fields(Current)]
    assert names("`manifest.json`") == [*Manifest.model_fields, "checksum"]
    assert names("`shard.json`") == list(ShardInfo.model_fields)


@pytest.mark.parametrize(
    ("field", "record"),
    [
        ("encoder", Fingerprint),
        ("index", VectorIndexInfo),
        ("lexical", LexicalInfo),
        ("shards", ShardEntry),
        ("counts", Counts),
        ("statistics", CorpusStatistics),
        ("log", LogInfo),
    ],
)
def test_the_fields_of_inner_objects_are_named(field: str, record: type) -> None:
    fields = list(record.model_fields)  # type: ignore[attr-defined]
    assert [name for name in dict.fromkeys(mentioned("`manifest.json`", field)) if name in fields] == fields


def test_a_file_entry_has_the_fields_named() -> None:
    assert "`{" + ", ".join(f'"{name}"' for name in FileEntry.model_fields) + "}`" in TEXT


def test_the_columns_are_those_of_the_schema() -> None:
    rows = [[name.strip("`"), kind, nullable] for name, kind, nullable, _ in table("`passages.arrow`")]
    assert rows == [[field.name, str(field.type), "yes" if field.nullable else "no"] for field in PASSAGE_SCHEMA]
    assert f"record batches of {BATCH_ROWS} rows" in TEXT


def test_the_columns_of_deletions_are_those_of_the_schema() -> None:
    rows = [
        [name.strip("`"), kind, nullable] for name, kind, nullable, _ in table("`positions.npy` and `deleted.arrow`")
    ]
    assert rows == [[field.name, str(field.type), "yes" if field.nullable else "no"] for field in DELETED_SCHEMA]


def test_the_names_of_the_log_have_as_many_digits_as_it_says() -> None:
    digits = len(layout.log_floor(1).removeprefix(layout.LOG_FLOORS))
    assert f"with {digits} digits" in TEXT
    assert layout.log_entry(1) == f"{layout.LOG_ENTRIES}{1:0{digits}d}.arrow"
    assert layout.log_segment(1, 9) == f"{layout.LOG_SEGMENTS}{1:0{digits}d}-{9:0{digits}d}.arrow"


def test_segments_are_as_it_says() -> None:
    section = TEXT.split("\n## The log\n", 1)[1].split("\n## ", 1)[0]
    for field in SEGMENT_SCHEMA:
        assert f"`{field.name}` ({field.type}" in section
    assert f"2^{SEGMENT_BYTES.bit_length() - 1} bytes" in section
    assert "a thousand entries" in section
    assert SEGMENT_ENTRIES == 1000
    assert KEY_LIFETIME_S == REMOVAL_DELAY_S == 3600


def test_the_columns_of_an_entry_are_those_of_the_schema() -> None:
    rows = [[name.strip("`"), kind, nullable] for name, kind, nullable, _ in table("Entries of the log")]
    assert rows == [[field.name, str(field.type), "yes" if field.nullable else "no"] for field in DOCUMENT_SCHEMA]
    section = TEXT.split("\n## Entries of the log\n", 1)[1]
    stream = pa.ipc.open_stream(
        encode_entry(LogEntry(1, "", 0.0, "", None, None, (LoggedRequest("k", "", 0, 0, {}),), ()))
    )
    header = json.loads(stream.schema.metadata[b"shoal"])
    described = section.split("a JSON object with these fields:", 1)[1]
    assert {name for line in re.findall(r"^- (.*?):", described, re.M) for name in re.findall(r"`(\w+)`", line)} == set(
        header
    )
    assert all(f"`{name}`" in described for name in header["requests"][0])
    assert f"2^{MOST_ENTRY_BYTES.bit_length() - 1} bytes" in section


def test_the_columns_of_corpus_terms_are_those_of_the_schema() -> None:
    rows = [[name.strip("`"), kind, nullable] for name, kind, nullable, _ in table("`terms.arrow`")]
    assert rows == [[field.name, str(field.type), "yes" if field.nullable else "no"] for field in TERM_SCHEMA]


def test_the_lexical_files_are_those_of_the_layout() -> None:
    assert [f"{layout.LEXICAL}/{name}" for name in names("`lexical/`")] == list(FILES)


def test_the_files_of_token_vectors_are_those_of_the_layout() -> None:
    assert [f"{layout.LATE}/{name}" for name in names("`late/`")] == list(LATE_FILES)
    assert set(LateInfo.model_fields) <= set(mentioned("`manifest.json`", "late"))


def test_the_types_of_fields_are_those_of_the_columns() -> None:
    assert {name.strip("`"): kind for name, kind, _ in table("`metadata.arrow`")} == {
        name: str(kind) for name, kind in ARROW_TYPES.items()
    }
    assert set(mentioned("`manifest.json`", "fields")) == {*get_args(FieldType), "mixed"} == {*ARROW_TYPES, "mixed"}
    assert f"more than {MAX_FIELDS} fields" in TEXT


def test_the_header_of_a_flat_index_is_as_long_as_it_says() -> None:
    assert f"{faiss.serialize_index(faiss.IndexFlatIP(8)).size} bytes of header" in TEXT


@pytest.mark.parametrize("passage_id", ["1", "doc-17", "größe"])
def test_the_shard_of_a_passage_is_computed_as_described(passage_id: str) -> None:
    digest = blake2b(passage_id.encode(), digest_size=8).digest()
    assert shard_of(passage_id, 7) == int.from_bytes(digest, "little") % 7
