"""Finds the input: which files a source names, and which format they have."""

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import pyarrow.fs as pafs

from shoal.errors import InvalidArgument
from shoal.index_root import layout
from shoal.sources.files import COMPRESSIONS, InputFile, locate, readable

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
}
"""The format of a file, by its ending."""
BEIR_FILES = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst")
"""What the corpus of a BEIR data set is called."""
FORMATS = "jsonl, parquet, csv, tsv, beir or text"
"""The formats, as messages list them."""


class Listing(NamedTuple):
    """What a source names: files of one format, in the order in which they are read."""

    format: Format
    files: list[InputFile]


def find_input(source: str, asked: str, index: str) -> Listing:
    """List the files of a source: a file, a folder, a glob, or a URI of these.

    Files and folders whose name begins with a dot are passed over.

    Args:
        source: What is listed.
        asked: A format, or `auto` to go by the file names. Of a folder only files of the format are taken; of a file or
            a glob, when the format is named, all.
        index: The index root; what it stores is passed over, should it lie within the source.

    Raises:
        InvalidArgument: There is no input, it may not be read, or its format is not clear.
        Unavailable: The store cannot be reached.
    """
    files, path = locate(source)
    pattern = ""
    with readable(source):
        info = files.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            path, pattern = _split_glob(path)
            if not pattern:
                raise InvalidArgument(
                    f"source {source} does not exist; give a file, a folder, a glob or a URI", param="source"
                )
        if info.type == pafs.FileType.File:
            found, base = [info], str(PurePosixPath(path).parent)
        else:
            found = files.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            base = path
    own = () if info.type == pafs.FileType.File else _stored(index, files)
    try:
        named = {
            name: info
            for info in found
            if info.type == pafs.FileType.File
            and not _hidden(name := info.path[len(base) :].lstrip("/"))
            and not f"{info.path}/".startswith(own)
        }
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"source {source} holds {error.object!r}, a name that is not UTF-8; rename it", param="source"
        ) from error
    if pattern:
        named = {name: info for name, info in named.items() if re.fullmatch(pattern, name)}
    if not named:
        raise InvalidArgument(f"source {source} holds no files", param="source")
    chosen, names = _choose(source, sorted(named), asked, everything=bool(pattern) or info.type == pafs.FileType.File)
    is_local = isinstance(files, pafs.LocalFileSystem)
    query = "" if is_local or "?" not in source else source[source.index("?") :]
    scheme = "" if is_local else source.partition("://")[0] + "://"
    listed = [_input_file(name, named[name], scheme, query, is_local) for name in names]
    if not any(file.bytes for file in listed):
        raise InvalidArgument(f"source {source} is empty: its {len(listed)} files have no bytes", param="source")
    return Listing(chosen, listed)


def _input_file(name: str, info: pafs.FileInfo, scheme: str, query: str, is_local: bool) -> InputFile:
    return InputFile(
        name=name if is_local else f"{scheme}{info.path}",
        uri=f"{scheme}{info.path}{query}",
        bytes=info.size,
        mtime_ns=info.mtime_ns,
        compression=COMPRESSIONS.get(PurePosixPath(name).suffix.lower()),
    )


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
        if not taken:
            raise InvalidArgument(
                f"source {source} holds no {asked} files ({_summary(names)}); set another format", param="format"
            )
        return chosen, taken
    known = sorted({kind for kind in formats.values() if kind is not None})
    if len(known) != 1:
        kinds = f"files of several formats ({', '.join(known)})" if known else "no files of a known format"
        raise InvalidArgument(
            f"source {source} holds {kinds}: {_summary(names)}; set format to one of {FORMATS}", param="format"
        )
    return known[0], [name for name in names if formats[name] == known[0]]


def _format_of(name: str) -> Format | None:
    path = PurePosixPath(name.lower())
    if path.suffix not in COMPRESSIONS:
        return EXTENSIONS.get(path.suffix)
    inner = EXTENSIONS.get(PurePosixPath(path.stem).suffix)
    return inner if inner in ("jsonl", "csv", "tsv") else None


def _summary(names: list[str]) -> str:
    counts = Counter("".join(PurePosixPath(name).suffixes[-2:]) or "no extension" for name in names)
    return ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(6))


def _stored(index: str, files: pafs.FileSystem) -> tuple[str, ...]:
    """What the paths of all that an index root stores begin with; none if it is not on this file system."""
    store, root = locate(index)
    return tuple(f"{root}/{name}/" for name in (layout.CURRENT, layout.VERSIONS, layout.STAGING) if store == files)


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
