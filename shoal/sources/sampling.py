"""Measures samples of the input, so that it can be cut into units and its passages estimated without reading it all."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from shoal.errors import InvalidArgument
from shoal.settings import SourceSettings
from shoal.sources import delimited, parquet
from shoal.sources.files import BYTE_ORDER_MARK, Compression, InputFile, locate, opened

SAMPLED_FILES = 16
"""Files that are looked into, evenly spread over the input."""
HEAD = 256 * 1024
"""Bytes read from the beginning of each."""
PLACES = 4
"""Places of a plain file that are looked at."""
UNKNOWN = 1000.0
"""Bytes of a record, where no whole one was seen."""
_MOST = 16 * HEAD  # what a compressed head may unfold into
_THREADS = 16  # opening a remote file is waiting


class Sample(NamedTuple):
    """What the input was measured to be.

    files: the input, with what only a look into them tells (header, columns, rows). records: estimated, of the whole
    input. mean_bytes: of one record, uncompressed.
    """

    files: list[InputFile]
    records: int
    mean_bytes: float


class _Look(NamedTuple):
    """Bytes and records that were looked at in one file; ratio: uncompressed bytes for one stored byte."""

    bytes: int
    records: int
    ratio: float


def measure(files: list[InputFile], source: SourceSettings) -> Sample:
    """Sample the input. `source.format` is resolved. Deterministic: depends on the files alone.

    Raises InvalidArgument for a file that cannot be read, that is not of the format or that lacks the fields.
    """
    _check_access(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        match source.format:
            case "text":
                return Sample(files, len(files), sum(file.bytes for file in files) / len(files))
            case "parquet":
                described = list(pool.map(lambda file: _describe_parquet(file, source), files))
                files = [file for file, _ in described]
                rows = sum(file.rows or 0 for file in files)
                return Sample(files, rows, sum(size for _, size in described) / max(rows, 1))
            case "csv" | "tsv":
                files = list(pool.map(lambda file: _describe_delimited(file, source), files))
        filled = [file for file in files if file.bytes]
        count = min(SAMPLED_FILES, len(filled))
        looks = list(pool.map(lambda place: _look(filled[place * len(filled) // count], source), range(count)))
    records = sum(look.records for look in looks)
    mean = sum(look.bytes for look in looks) / records if records else UNKNOWN
    ratio = sum(look.ratio for look in looks) / len(looks)
    size = sum(file.bytes * ratio if file.compression else file.bytes - file.first for file in files)
    return Sample(files, round(size / mean), mean)


def _check_access(files: Iterable[InputFile]) -> None:
    for file in files:
        store, path = locate(file.uri)
        if not isinstance(store, pafs.LocalFileSystem):
            return
        if not os.access(path, os.R_OK):
            raise InvalidArgument(f"input file {path} may not be read; check its permissions", param="source")


def _describe_parquet(file: InputFile, source: SourceSettings) -> tuple[InputFile, int]:
    with opened(file) as stream:
        found = parquet.describe(stream, file.name, source)
    return file.model_copy(update={"rows": found.rows, "group": found.group, "columns": found.columns}), found.bytes


def _describe_delimited(file: InputFile, source: SourceSettings) -> InputFile:
    """Read the header line, unless the settings name the columns."""
    if not file.bytes:
        return file
    columns, first, line = source.columns, 0, 1
    if columns is None:
        head, whole, _ = _read_head(file)
        columns, first, line = delimited.header(head, whole, file.name, quoted=source.format == "csv")
    wanted = [source.id_field or "id", source.text_field, *([source.title_field] if source.title_field else [])]
    if absent := [field for field in wanted if field not in columns]:
        raise InvalidArgument(
            f"{file.name} has no column {absent[0]!r} (columns: {', '.join(columns)[:500]}); set id_field, text_field "
            "or title_field, or columns if it has no header line"
        )
    return file.model_copy(update={"columns": columns, "first": first, "first_line": line})


def _look(file: InputFile, source: SourceSettings) -> _Look:
    """Measure the whole lines of some places of a file."""
    head, whole, ratio = _read_head(file)
    if source.format in ("jsonl", "beir") and head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"[":
        raise InvalidArgument(
            f"{file.name} is one JSON array, not JSON lines; convert it, for example with jq -c '.[]'"
        )
    head = head[file.first :]
    if source.format == "csv":
        # Only from its beginning it is known what stands in quotes.
        lines = _whole_lines(head, whole)
        framing = delimited.Framing()
        return _Look(sum(len(line) + 1 for line in lines), sum(framing.ends_record(line) for line in lines), ratio)
    lines = _whole_lines(head, whole)
    if file.compression is None and not whole:
        # What stands at the beginning may be unlike the rest.
        with opened(file) as stream:
            for place in range(1, PLACES):
                stream.seek(file.bytes * place // PLACES)
                lines += _whole_lines(stream.read(HEAD // PLACES), False)[1:]
    return _Look(sum(len(line) + 1 for line in lines), sum(1 for line in lines if line.strip()), ratio)


def _whole_lines(block: bytes, is_end: bool) -> list[bytes]:
    lines = block.split(b"\n")
    if not is_end or not lines[-1]:
        lines.pop()
    return lines


def _read_head(file: InputFile) -> tuple[bytes, bool, float]:
    """Return the uncompressed head of a file, whether it is the whole file, and how much it grew by decompression."""
    with opened(file) as stream:
        raw = stream.read(HEAD)
    if file.compression is None:
        return raw, len(raw) == file.bytes, 1.0
    return _unfold(raw, file.compression, len(raw) == file.bytes, file.name)


def _unfold(raw: bytes, compression: Compression, whole: bool, name: str) -> tuple[bytes, bool, float]:
    source = pa.BufferReader(raw)
    head = bytearray()
    with pa.CompressedInputStream(source, compression) as stream:
        try:
            while len(head) < _MOST and (block := stream.read(2**14)):
                head += block
            whole = whole and len(head) < _MOST
        except OSError as error:
            if not head:
                raise InvalidArgument(f"{name} is no {compression} file ({error}); rename or repair it") from error
            whole = False
        consumed = source.tell()
    return bytes(head), whole, len(head) / consumed
