"""Finds the input: which files a source names, and which format they have."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import pyarrow.fs as pafs

from shoal.errors import InvalidArgument
from shoal.extraction.document_types import DOCUMENT_TYPES, REMEDY, is_readable, type_of
from shoal.index_root import layout
from shoal.sources.delta import current_files
from shoal.sources.files import COMPRESSIONS, InputFile, escaped, locate, readable
from shoal.sources.folders import DELTA_LOG, INDEX_ROOT, Partition, bookkeeping, partitions, stored_in_index_roots

Format = Literal["jsonl", "parquet", "csv", "tsv", "beir", "text"]

EXTENSIONS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".rst": "text",
    ".rest": "text",
    **dict.fromkeys(DOCUMENT_TYPES, "text"),
}
"""Formats by the extension of a file's name."""
_REPLACED = "of earlier versions of the table"
"""How files of a Delta table are counted whose rows were deleted or replaced."""
_BESIDE = (".rst", ".rest", *DOCUMENT_TYPES)
"""Extensions of documents that often lie beside data, and say nothing of the format where there is data or text."""
BEIR_FILES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst")
"""Names of the file of passages in a BEIR folder."""
_BEIR_OTHERS = re.compile(r"queries\.jsonl(\.gz|\.zst)?|qrels/.*")
"""What else belongs to a BEIR folder."""
FORMATS = "jsonl, parquet, csv, tsv, beir or text"
"""All formats, for messages."""
_BARE = "no extension"
"""How files without an extension are counted."""
_PACKED = (".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".lz4", ".snappy", ".br", ".Z")
"""Extensions of archives and compressions that are not read."""
_LANCE = ".lance"
"""Extension of the files of a Lance table, which its own library alone reads: a wheel of 220 MiB unpacked."""
_OPAQUE = (".doc", ".odt", ".rtf", ".ppt", ".xls", ".xlsx", ".xml")
"""Extensions of documents that hold text among other things."""


class Listing(NamedTuple):
    """What a source names: files of one format, in the order in which they are read.

    left_out: how many other files lie there, by what they are: mostly an extension such as `.pdf`.
    """

    format: Format
    files: list[InputFile]
    left_out: dict[str, int]


def find_input(source: str, asked: str, index: str) -> Listing:
    """List the files of a source: a file, a folder, a glob, or a URI of these.

    Files and folders whose name begins with a dot are passed over. What an index root stores, and what Spark, Delta
    and their kin keep for themselves, is left out.

    Args:
        source: What is listed.
        asked: A format, or `auto` to go by the file names. Of a folder only files of the format are taken, or those
            without an extension if there are none; of a file or a glob, when the format is named, all.
        index: The index root; what it stores is passed over, should it lie within the source.

    Raises:
        InvalidArgument: There is no input, it may not be read, or its format is not clear.
        Unavailable: The store cannot be reached.
    """
    files, path = locate(source)
    with readable(source):
        info = files.get_file_info(path)
        pattern = ""
        if info.type == pafs.FileType.NotFound:
            path, pattern = _split_glob(path)
            if not pattern:
                raise InvalidArgument(
                    f"source {source} does not exist; give a file, a folder, a glob or a URI", param="source"
                )
        is_file = info.type == pafs.FileType.File
        found = (
            [info] if is_file else files.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
        )
    base = str(PurePosixPath(path).parent) if is_file else path
    named = _named(source, found, base, () if is_file else _stored(index, files))
    if pattern:
        named = {name: info for name, info in named.items() if re.fullmatch(pattern, name)}
    left_out: Counter[str] = Counter()
    if not is_file:
        named = _input(named, left_out)
    if not named:
        raise InvalidArgument(f"source {source} holds no files{_but(left_out)}", param="source")
    chosen, names = _choose(source, sorted(named), asked, everything=bool(pattern) or is_file)
    of_table = None
    if chosen == "text":
        names = _readable(source, names)
    elif chosen == "parquet" and left_out[DELTA_LOG]:
        of_table = _current(source, names, is_table=_is_table(found, base))
        left_out[_REPLACED] += len(names) - len(of_table)
        named = {name: info for name, info in named.items() if name in of_table or name not in names}
        names = sorted(of_table)
    rest = named.keys() - set(names)
    left_out.update(_extension(name) for name in rest if chosen != "beir" or not _BEIR_OTHERS.fullmatch(name))
    is_local = isinstance(files, pafs.LocalFileSystem)
    listed = _listed({name: named[name] for name in names}, source, is_local, of_table)
    if not any(file.bytes for file in listed):
        raise InvalidArgument(f"source {source} is empty: its {len(listed)} files have no bytes", param="source")
    return Listing(chosen, listed, dict((+left_out).most_common()))


def named_below(files: Sequence[InputFile], folder: str) -> list[InputFile]:
    """Name files of a source as if the source were a folder above them, which decides the ids of documents.

    Args:
        files: On this machine's disk.
        folder: The folder.

    Raises:
        InvalidArgument: A file does not lie in the folder, or it has a URI, which is its name whatever the source is.
    """
    root = Path(folder).resolve()
    names = {}
    for file in files:
        path = Path(file.uri)
        if not path.is_absolute():
            raise InvalidArgument(
                f"relative_to is for files on this machine; {file.name} has the same id whatever names it",
                param="relative_to",
            )
        whole = path.parent.resolve() / path.name
        if not whole.is_relative_to(root):
            raise InvalidArgument(f"{whole} does not lie in {root}; name the folder of the build", param="relative_to")
        names[file.uri] = whole.relative_to(root).as_posix()
    fields = partitions(names.values())
    return [file.model_copy(update={"name": names[file.uri], "partition": fields[names[file.uri]]}) for file in files]


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Say how many files were left out, and which: `158 files of other types: 90 .html, 60 .rst, 8 .pdf`."""
    shown = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{count:,} {label}" for label, count in shown[:8]) + (", ..." if len(shown) > 8 else "")
    total = sum(left_out.values())
    return f"{total:,} file{'s' if total > 1 else ''} of other types: {kinds}"


def _is_table(found: Iterable[pafs.FileInfo], base: str) -> bool:
    """Whether a folder is a Delta table."""
    log = f"{base}/{DELTA_LOG}".lstrip("/")
    return any(info.path.lstrip("/").startswith(log) and info.path.endswith(".json") for info in found)


def _current(source: str, names: list[str], *, is_table: bool) -> dict[str, Partition]:
    """The files of the current version of a Delta table, and what its log says of their records."""
    if not is_table:
        raise InvalidArgument(f"source {source} holds Delta tables; name the folder of one of them", param="source")
    files = {file.name: file.partition for file in current_files(source)}
    if not files:
        raise InvalidArgument(f"the Delta table {source} is empty", param="source")
    if missing := sorted(files.keys() - set(names)):
        raise InvalidArgument(
            f"the Delta table {source} names {missing[0]}, which is not there; restore it, or repair the table",
            param="source",
        )
    return files


def _readable(source: str, names: list[str]) -> list[str]:
    """The documents whose parsers are installed. Raises InvalidArgument when there is none but others."""
    readable = [name for name in names if (kind := type_of(name)) is None or is_readable(kind)]
    if names and not readable:
        raise InvalidArgument(
            f"source {source} holds documents ({_summary(names)}) whose parsers are not installed: {REMEDY}",
            param="source",
        )
    return readable


def remarks_on(left_out: Mapping[str, int], chosen: str) -> list[str]:
    """What the files that were left out of those of a format mean for whoever builds, each a sentence."""
    lacking = {
        label: count
        for label, count in left_out.items()
        if chosen == "text" and (kind := DOCUMENT_TYPES.get(label)) is not None and not is_readable(kind)
    }
    remarks = [f"{describe_left_out(lacking)} would be read with their parsers: {REMEDY}"] if lacking else []
    if DELTA_LOG not in left_out or chosen == "parquet":
        return remarks
    return [
        *remarks,
        "the source is a Delta table, whose log is not read: rows that were deleted or replaced stay in its files "
        "until VACUUM removes them, and are indexed; write the current rows to a folder of their own",
    ]


def _named(source: str, found: Iterable[pafs.FileInfo], base: str, own: tuple[str, ...]) -> dict[str, pafs.FileInfo]:
    """The files by their names relative to the source, without hidden ones and those of the index root."""
    try:
        return {
            name: info
            for info in found
            if info.type == pafs.FileType.File
            and not _hidden(name := info.path[len(base) :].removeprefix("/"))
            and not f"{info.path}/".startswith(own)
        }
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"source {source} holds {error.object!r}, a name that is not UTF-8; rename it", param="source"
        ) from error


def _input(named: dict[str, pafs.FileInfo], left_out: Counter[str]) -> dict[str, pafs.FileInfo]:
    """Take out what other index roots store, and what Spark, Delta and their kin keep for themselves."""
    stored = stored_in_index_roots(named)
    kept = {}
    for name, info in named.items():
        label = INDEX_ROOT if stored and name.startswith(stored) else bookkeeping(name)
        if label is None:
            kept[name] = info
        else:
            left_out[label] += 1
    return kept


def _listed(
    named: dict[str, pafs.FileInfo], source: str, is_local: bool, of_table: dict[str, Partition] | None
) -> list[InputFile]:
    query = "" if is_local or "?" not in source else source[source.index("?") :]
    scheme = "" if is_local else source.partition("://")[0] + "://"
    fields: dict[str, Partition] = partitions(named) if of_table is None else of_table
    return [
        InputFile(
            name=name if is_local else f"{scheme}{info.path}",
            uri=info.path if is_local else f"{scheme}{escaped(info.path)}{query}",
            bytes=info.size,
            mtime_ns=info.mtime_ns,
            compression=COMPRESSIONS.get(PurePosixPath(name).suffix.lower()),
            partition=fields[name],
            unreadable="has an empty part (//) in its key and cannot be opened; rename it"
            if "//" in info.path
            else None,
        )
        for name, info in named.items()
    ]


def _choose(source: str, names: list[str], asked: str, *, everything: bool) -> tuple[Format, list[str]]:
    """Return the format and the names of the files that have it."""
    corpus = [name for name in BEIR_FILES if name in names]
    if asked == "beir" or (asked == "auto" and corpus and not everything):
        if everything:
            return "beir", names
        if len(corpus) != 1:
            raise InvalidArgument(
                f"source {source} holds {' and '.join(corpus) or 'no corpus.jsonl'}; "
                f"a BEIR folder holds one of {', '.join(BEIR_FILES)}",
                param="source",
            )
        return "beir", corpus
    formats = {name: _format_of(name) for name in names}
    if asked != "auto":
        chosen: Format = asked  # type: ignore[assignment]
        taken = names if everything else [name for name in names if formats[name] == chosen]
        taken = taken or [name for name in names if _extension(name) in _bare_extensions(chosen)]
        if not taken:
            raise InvalidArgument(
                f"source {source} holds no {asked} files ({_summary(names)}); {_way_out(source, names, asked)}",
                param="format",
            )
        return chosen, taken
    telling = {kind for name, kind in formats.items() if not name.lower().endswith(_BESIDE)}
    known = sorted({kind for kind in (telling - {None} or formats.values()) if kind is not None})
    if len(known) > 1:
        raise InvalidArgument(
            f"source {source} holds files of several formats ({', '.join(known)}): {_summary(names)}; set format to "
            f"{' or '.join(known)}",
            param="format",
        )
    if not known:
        bare = everything or any(_extension(name) == _BARE for name in names)
        remedy = f"set format to one of {FORMATS}" if bare else _way_out(source, names, "text")
        raise InvalidArgument(
            f"source {source} holds no files of a known format: {_summary(names)}; {remedy}", param="format"
        )
    return known[0], [name for name in names if formats[name] == known[0]]


def _way_out(source: str, names: list[str], wanted: str) -> str:
    """What whoever has none of the wanted files can do with those that are there."""
    formats = sorted({kind for name in names if (kind := _format_of(name)) is not None})
    if formats:
        return f"set format to {' or '.join(formats)}, or leave it out"
    extension = Counter(map(_extension, names)).most_common(1)[0][0]
    if any(name.lower().endswith(_LANCE) for name in names):
        return "write the rows of Lance tables as Parquet first: Lance's own to_table() and pyarrow.parquet.write_table"
    if extension.endswith(_PACKED):
        return f"unpack {extension} files first, or compress them as .gz or .zst"
    folder, mark, query = source.partition("?")
    glob = f"{folder.rstrip('/')}/**/*{extension}{mark}{query}"
    first = "turn them into text first" if extension in _OPAQUE else "if that is what they are"
    read = f"--source '{glob}' --format {wanted} reads them as {wanted} whatever they are called"
    return f"{first}; {read}" if extension in _OPAQUE else f"{read}, {first}"


def _format_of(name: str) -> Format | None:
    path = PurePosixPath(name.lower())
    if path.suffix not in COMPRESSIONS:
        return EXTENSIONS.get(path.suffix)
    inner = EXTENSIONS.get(PurePosixPath(path.stem).suffix)
    return inner if inner in ("jsonl", "csv", "tsv") else None


def _bare_extensions(chosen: Format) -> tuple[str, ...]:
    """Extensions that say nothing of the format, in files that may be of it."""
    return (_BARE, *COMPRESSIONS) if chosen in ("jsonl", "csv", "tsv") else (_BARE,)


def _extension(name: str) -> str:
    """The extension of a name, with that of a compression behind it; numbers are none."""
    path = PurePosixPath(name.lower())
    outer = path.suffix if path.suffix in COMPRESSIONS else ""
    inner = PurePosixPath(path.stem).suffix if outer else path.suffix
    inner = "" if re.fullmatch(r"\.\d*", inner) else inner
    return f"{inner}{outer}" or _BARE


def _summary(names: list[str]) -> str:
    return ", ".join(f"{count} x {extension}" for extension, count in Counter(map(_extension, names)).most_common(6))


def _but(left_out: Mapping[str, int]) -> str:
    return f" of its own; left out are {describe_left_out(left_out)}" if left_out else ""


def _stored(index: str, files: pafs.FileSystem) -> tuple[str, ...]:
    """What the paths of all that an index root stores begin with; none if it is not on this file system."""
    store, root = locate(index)
    names = (layout.CURRENT, layout.VERSIONS, layout.STAGING, layout.REFUSALS)
    return tuple(f"{root}/{name}/" for name in names if store == files)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _split_glob(path: str) -> tuple[str, str]:
    """Return the folder before the first part with a wildcard, and the rest as a regular expression, or ""."""
    parts = path.split("/")
    wild = next((place for place, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if wild is None:
        return path, ""
    rest = "/".join(parts[wild:])
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pattern = "".join(
        tokens.get(token)
        or (f"[{token[1:-1].replace('!', '^', 1)}]" if len(token) > 2 and token[0] == "[" else re.escape(token))
        for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]/]+\]|.", rest)
    )
    return "/".join(parts[:wild]) or "/", pattern
