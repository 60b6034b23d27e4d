"""Measures samples of the input, so that it can be cut into units and its passages estimated without reading it all."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from shoal.errors import InvalidArgument
from shoal.settings import SourceSettings
from shoal.sources import delimited, documents, parquet
from shoal.sources.csv_framing import Framing
from shoal.sources.files import BYTE_ORDER_MARK, Compression, Damaged, InputFile, locate_file, opened, salvaged

SAMPLED_FILES = 16
"""Files that are looked into, evenly spread over the input."""
HEAD = 256 * 1024
"""Bytes read from the beginning of each."""
PLACES = 4
"""Places of a plain file that are looked at."""
UNKNOWN = 1000.0
"""Bytes of a record, where no whole one was seen."""
ENDS = 64 * 1024
"""Bytes at both ends of a file that tell it from another one of equal name, size and time."""
_MOST = 16 * HEAD
"""Bytes that a compressed head may unfold into."""
_MAGIC: dict[Compression, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
"""How compressed files begin."""
_THREADS = 16
"""Files that are looked at side by side: opening a remote one is waiting."""


class Sample(NamedTuple):
    """What the input was measured to be.

    files: the input, with what only a look into them tells (header, columns, rows). records: estimated, of the whole
    input. mean_bytes: of one record, uncompressed. digest: of both ends of some files, for the identity of the input.
    """

    files: list[InputFile]
    records: int
    mean_bytes: float
    digest: str = ""


class _Look(NamedTuple):
    """Bytes and records that were looked at in one file; ratio: uncompressed bytes for one stored byte."""

    bytes: int
    records: int
    ratio: float


def measure(files: list[InputFile], source: SourceSettings) -> Sample:
    """Sample the input. `source.format` is resolved. Deterministic: depends on the files alone.

    A file that is damaged or that may not be read is marked as unreadable. Raises InvalidArgument when all of them are,
    and for a file that is not of the format or that lacks the fields, Unavailable for one that cannot be reached.
    """
    files = [checked(file) for file in files]
    records, mean = 0, UNKNOWN
    with ThreadPoolExecutor(_THREADS) as pool:
        match source.format:
            case "text":
                records, mean = len(files), sum(map(documents.text_bytes, files)) / len(files)
            case "parquet":
                described = list(pool.map(lambda file: _describe_parquet(file, source), files))
                files = [file for file, _ in described]
                records = sum(file.rows or 0 for file in files)
                mean = sum(size for _, size in described) / max(records, 1)
            case _:
                if source.format in ("csv", "tsv"):
                    files = list(pool.map(lambda file: _describe_delimited(file, source), files))
                chosen = spread(files)
                looks = list(pool.map(lambda place: _look(files[place], source), chosen))
                for place, look in zip(chosen, looks, strict=True):
                    if isinstance(look, str):
                        files[place] = files[place].model_copy(update={"unreadable": look})
                records, mean = _estimate(files, [look for look in looks if isinstance(look, _Look)])
    filled = [place for place, file in enumerate(files) if file.bytes]
    if all(files[place].unreadable is not None for place in filled):
        first = files[filled[0]]
        more = f" (and so are {len(filled) - 1} more)" if len(filled) > 1 else ""
        raise InvalidArgument(f"input file {first.name} {first.unreadable}{more}", param="source")
    return Sample(files, records, mean, _digest([files[place] for place in spread(files)]))


def spread(files: list[InputFile], most: int = SAMPLED_FILES) -> list[int]:
    """Places of a few files that hold something, evenly spread."""
    filled = [place for place, file in enumerate(files) if file.bytes and file.unreadable is None]
    count = min(most, len(filled))
    return [filled[place * len(filled) // count] for place in range(count)]


def _digest(files: list[InputFile]) -> str:
    """Digest of both ends of files: the tail of Parquet lists its pages, that of gzip holds a checksum."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS) as pool:
        for ends in pool.map(_ends, files):
            digest.update(ends)
    return digest.hexdigest()


def _ends(file: InputFile) -> bytes:
    with opened(file) as stream:
        head = stream.read(ENDS)
        stream.seek(max(0, file.bytes - ENDS))
        return bytes(head + stream.read(ENDS))


def _estimate(files: list[InputFile], looks: list[_Look]) -> tuple[int, float]:
    """Return the records of all files and the mean bytes of one."""
    records = sum(look.records for look in looks)
    mean = sum(look.bytes for look in looks) / records if records else UNKNOWN
    ratio = sum(look.ratio for look in looks) / max(len(looks), 1)
    readable = [file for file in files if file.unreadable is None]
    size = sum(file.bytes * ratio if file.compression else file.bytes - file.first for file in readable)
    return round(size / mean), mean


def checked(file: InputFile) -> InputFile:
    """Mark a local file that may not be read. (A store that refuses is an error: its credentials may have expired.)"""
    store, path = locate_file(file)
    if not isinstance(store, pafs.LocalFileSystem) or os.access(path, os.R_OK):
        return file
    return file.model_copy(update={"unreadable": "may not be read; check its permissions"})


def _describe_parquet(file: InputFile, source: SourceSettings) -> tuple[InputFile, int]:
    if file.unreadable is not None:
        return file, 0
    try:
        with opened(file) as stream:
            found = parquet.describe(stream, file.name, source)
    except Damaged as error:
        return file.model_copy(update={"unreadable": f"is no whole Parquet file ({error}); repair it"}), 0
    known = {name: getattr(found, name) for name in ("rows", "group", "columns", "left_out", "read_anew")}
    return file.model_copy(update=known), found.bytes


def _describe_delimited(file: InputFile, source: SourceSettings) -> InputFile:
    """Read the header line, unless the settings name the columns, and require the fields of the settings."""
    if not file.bytes or file.unreadable is not None:
        return file
    try:
        file = with_header(file, source)
    except Damaged as error:
        return file.model_copy(update={"unreadable": str(error)})
    columns = file.columns or []
    wanted = [*source.id_fields, source.text_field, *([source.title_field] if source.title_field else [])]
    if absent := [field for field in wanted if field not in columns]:
        remedy = delimited.delimiter_remedy(columns, "," if source.format == "csv" else "\t")
        raise InvalidArgument(
            f"{file.name} has no column {absent[0]!r} (columns: {', '.join(columns)[:500]}); "
            + (remedy or "set id_field, text_field or title_field, or columns if it has no header line")
        )
    return file


def with_header(file: InputFile, source: SourceSettings) -> InputFile:
    """Return a CSV or TSV file with the columns that its header line, or else the settings, name.

    Raises Damaged when nothing can be decompressed, InvalidArgument for a header that cannot be read.
    """
    columns, first, line = source.columns, 0, 1
    is_csv = quoted = source.format == "csv"
    if columns is None or not is_csv:
        head, whole, _ = _read_head(file)
        quoted = is_csv or delimited.looks_quoted(head, whole, columns is None)
        if columns is None:
            columns, first, line = delimited.header(head, whole, file.name, "," if is_csv else "\t", quoted=quoted)
    return file.model_copy(
        update={"columns": columns, "first": first, "first_line": line, "quoted": quoted and not is_csv}
    )


def require_lines(file: InputFile, head: bytes | None = None) -> None:
    """Raise InvalidArgument for a JSON array, and for what another encoding makes of one line after another.

    Args:
        head: The first bytes of the file, if they are known already.
    """
    if head is None:
        head, _, _ = _read_head(file)
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")):
        raise InvalidArgument(f"{file.name} is UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8")
    if head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"[":
        raise InvalidArgument(
            f"{file.name} is one JSON array, not JSON lines; convert it, for example with jq -c '.[]'"
        )


def _look(file: InputFile, source: SourceSettings) -> _Look | str:
    """Measure the whole lines of some places of a file, or say why nothing of it can be read."""
    try:
        head, whole, ratio = _read_head(file)
    except Damaged as error:
        return str(error)
    if source.format in ("jsonl", "beir"):
        require_lines(file, head)
    head = head[file.first :]
    if source.format == "csv" or file.quoted:
        # Only from its beginning it is known what stands in quotes.
        lines = _whole_lines(head, whole)
        framing = Framing(len(file.columns or []), len(head) + 1, "," if source.format == "csv" else "\t")
        records = sum(len(framing.add(line)) for line in lines if line.strip()) + len(framing.end())
        return _Look(sum(len(line) + 1 for line in lines), records, ratio)
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
    """Return the uncompressed head of a file, whether it is the whole file, and how much it grew by decompression.

    Raises Damaged when nothing can be decompressed.
    """
    with opened(file) as stream:
        raw = stream.read(HEAD)
    if file.compression is None:
        return raw, len(raw) == file.bytes, 1.0
    return _unfold(raw, file.compression, len(raw) == file.bytes)


def _salvaged_head(raw: bytes, compression: Compression, delivered: int) -> bytes:
    """What pyarrow had decompressed before it failed, and dropped: all of a small file that breaks off."""
    head = bytearray()
    with suppress(Damaged):
        for block in salvaged(pa.BufferReader(raw), compression, delivered, ""):
            head += block
            if len(head) >= _MOST:
                break
    return bytes(head)


def _unfold(raw: bytes, compression: Compression, whole: bool) -> tuple[bytes, bool, float]:
    source = pa.BufferReader(raw)
    head = bytearray()
    with pa.CompressedInputStream(source, compression) as stream:
        try:
            while len(head) < _MOST and (block := stream.read(2**14)):
                head += block
            whole = whole and len(head) < _MOST
        except OSError as error:
            head += _salvaged_head(raw, compression, len(head))
            if not head:
                broken = "is a damaged" if raw.startswith(_MAGIC[compression]) else "is no"
                raise Damaged(f"{broken} {compression} file ({error}); rename or repair it") from error
            whole = False
        consumed = source.tell()
    return bytes(head), whole, len(head) / consumed
