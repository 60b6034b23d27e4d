"""One shard of a version: its passages and its vector index, written in one pass and searched by one reader."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.encoders import TextVectors
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.filters import Filter
from shoal.index_root import layout
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import FileEntry, Manifest, ShardEntry, ShardInfo
from shoal.index_root.storage import Storage
from shoal.index_root.versions import file_problem
from shoal.indexes import ShardIndex, index_kind
from shoal.late.index import StoredTokens
from shoal.late.writer import FILES as LATE_FILES
from shoal.late.writer import TokenWriter
from shoal.lexical.index import LexicalIndex
from shoal.lexical.writer import FILES, LexicalWriter
from shoal.metadata import FieldTypes
from shoal.records import FloatArray, Hits, Passage, Queries, RowArray, ShardHits
from shoal.rerankers.late_interaction import DENSE_WEIGHT
from shoal.search.services import MESSAGE_BYTES, Fetched
from shoal.settings import IndexSettings
from shoal.shard import selection
from shoal.shard.columns import Columns, ColumnWriter, column_types

# Texts have 64-bit offsets: a few thousand passages of a megabyte do not fit into Arrow's 2 GiB `string` arrays.
PASSAGE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("title", pa.large_string()),
        pa.field("metadata", pa.large_string()),
    ]
)
"""Columns of passages.arrow. `metadata` is a JSON object with sorted keys, null when it is empty."""

BATCH_ROWS = 4096
"""Rows of one record batch of passages.arrow and metadata.arrow; only the last one is smaller."""


def to_batch(passages: Sequence[Passage]) -> pa.RecordBatch:
    """Return passages as a record batch of PASSAGE_SCHEMA. Texts must be valid Unicode (no lone surrogates)."""
    columns = [
        [passage.id for passage in passages],
        [passage.text for passage in passages],
        [passage.title for passage in passages],
        [_to_json(passage) for passage in passages],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PASSAGE_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PASSAGE_SCHEMA)


def to_passage(batch: pa.RecordBatch, row: int) -> Passage:
    """Return one row of a record batch of PASSAGE_SCHEMA as a passage."""
    metadata = batch.column(3)[row].as_py()
    return Passage(
        id=batch.column(0)[row].as_py(),
        text=batch.column(1)[row].as_py(),
        title=batch.column(2)[row].as_py(),
        metadata={} if metadata is None else json.loads(metadata),
    )


def write_shard(
    folder: Path,
    blocks: Iterable[tuple[pa.RecordBatch, FloatArray]],
    *,
    shard: int,
    dim: int,
    kind: str,
    trained: bytes | None,
    threads: int,
    fields: FieldTypes | None = None,
    lexical: LexicalWriter | None = None,
    tokens: TokenWriter | None = None,
) -> ShardEntry:
    """Write one shard into a local folder (created if missing) and return its manifest entry.

    blocks: record batches that have at least the columns of PASSAGE_SCHEMA, each with its vectors, float32 (n_i, dim).
    kind: the `index_kind` setting. trained: what the kind's `train` returned. fields: types of the metadata fields; all
    values fit them. Files of the entry are named relative to the folder of the version. How the rows are cut into
    blocks does not change a byte of the result; memory holds one block, and for other kinds than `flat` the index.
    lexical: a writer for the same folder, unless the shard shall be searched by vectors only. tokens: one of the token
    vectors, if the shard shall keep them.
    Raises InvalidArgument for vectors that are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = text_bytes = 0
    if lexical is not None:
        blocks = lexical.watch(blocks)
    if tokens is not None:
        blocks = tokens.watch(blocks)
    names = [
        layout.VECTORS,
        *([layout.EXACT] if index_kind(kind).EXACT else []),
        layout.PASSAGES,
        *([layout.METADATA] if column_types(fields or {}) else []),
        layout.SHARD,
    ]
    with (
        pa.OSFile(str(folder / layout.PASSAGES), "wb") as sink,
        pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer,
        ColumnWriter(folder / layout.METADATA, fields or {}) as columns,
    ):

        def vectors() -> Iterator[FloatArray]:
            nonlocal count, text_bytes
            for batch, block in _regular(blocks, dim):
                writer.write_batch(batch)
                columns.write(batch.column(3))
                count += batch.num_rows
                text_bytes += _byte_count(batch.column(1))
                yield block

        index_kind(kind).build(vectors(), dim, folder / layout.VECTORS, trained, threads)
    info = ShardInfo(shard=shard, count=count, dim=dim, kind=kind, text_bytes=text_bytes)
    (folder / layout.SHARD).write_bytes(info.to_bytes())
    local, files = Storage(str(folder)), []
    for name in (*names, *(FILES if lexical else ()), *(LATE_FILES if tokens else ())):
        digest, size = local.sha256(name)
        files.append(FileEntry(path=f"{layout.shard_name(shard)}/{name}", bytes=size, sha256=digest))
    return ShardEntry(shard=shard, count=count, files=files)


class Shard:
    """An opened, read-only shard. Safe for concurrent calls; everything lies in mapped files."""

    def __init__(
        self,
        index: ShardIndex,
        lexical: LexicalIndex | None,
        passages: "Passages",
        selections: selection.Selections | None,
        paths: Mapping[str, Path],
        cache: ShardCache | None,
        tokens: StoredTokens | None = None,
    ) -> None:
        self._index = index
        self._tokens = tokens
        self._lexical = lexical
        self._passages = passages
        self._selections = selections
        self._paths = paths
        self._cache = cache

    @classmethod
    def open(
        cls,
        storage: Storage,
        manifest: Manifest,
        shard: int,
        *,
        cache: ShardCache | None,
        threads: int,
        verify: bool = True,
        filter_cache_bytes: int = 64 * 2**20,
    ) -> "Shard":
        """Open a shard of a version, checking its files against the manifest.

        cache: where the files of a remote root are kept; it checks them whatever `verify` says. threads: of one search.
        filter_cache_bytes: memory for what filters have selected before.
        Raises NotFound for a shard that the version does not have, CorruptIndex naming the file that does not match.
        """
        entry = next((entry for entry in manifest.shards if entry.shard == shard), None)
        if entry is None:
            raise NotFound(f"version {manifest.version} has no shard {shard}; it has {len(manifest.shards)}")
        if cache is None and not storage.is_local:
            raise InvalidArgument(
                f"shards of {storage.place()} need a cache on this machine's disk; give a cache folder",
                param="cache_dir",
            )
        paths: dict[str, Path] = {}
        try:
            for file in entry.files:
                paths[file.path.partition("/")[2]] = _fetch(storage, manifest.version, file, cache, verify)
            settings = IndexSettings(index_kind=manifest.index.kind, index_search=manifest.index.search)
            index = index_kind(settings.index_kind).open(
                paths[layout.VECTORS], settings, threads, exact=paths.get(layout.EXACT)
            )
            passages = Passages(paths[layout.PASSAGES])
            columns = None
            if layout.METADATA in paths:
                columns = Columns(paths[layout.METADATA], manifest.fields)
                if columns.count != entry.count:
                    raise CorruptIndex(
                        f"{paths[layout.METADATA]} has {columns.count} rows, its manifest says {entry.count}; "
                        "activate another version"
                    )
            if not (index.count == passages.count == entry.count and index.dim == manifest.dim):
                raise CorruptIndex(
                    f"shard {shard} of {manifest.version} holds {index.count} vectors of {index.dim} dimensions and "
                    f"{passages.count} passages, its manifest says {entry.count} of {manifest.dim}; "
                    "activate another version"
                )
            lexical = None
            if manifest.lexical is not None:
                lexical = LexicalIndex(paths, entry.count, manifest.lexical, passages.ids)
            tokens = None
            if manifest.late is not None:
                tokens = StoredTokens(paths, entry.count, manifest.late, threads)
        except BaseException:
            _release(cache, paths.values())
            raise
        selections = selection.Selections(columns, index, filter_cache_bytes) if columns is not None else None
        return cls(index, lexical, passages, selections, paths, cache, tokens)

    @property
    def count(self) -> int:
        """Number of passages."""
        return self._passages.count

    @property
    def filter_lookups(self) -> tuple[int, int]:
        """Filters that were asked for and, of these, those whose rows were remembered."""
        return (self._selections.asked, self._selections.hits) if self._selections else (0, 0)

    def search(
        self,
        queries: Queries,
        top_k: int,
        with_passages: bool,
        filters: Sequence[Filter | None] | None = None,
    ) -> ShardHits:
        """Search for b queries; the arrays of the hits are (b, top_k).

        with_passages: passages come with the hits, unless they would not fit into one message. filters: one for each
        query, None for all passages; checked against the fields of this version.
        Raises InvalidArgument for vectors of another dimension, and for words where the version has no lexical index.
        """
        selected = self._selected(queries, filters)
        dense = self._search_dense(queries, top_k, selected)
        lexical = self._search_lexical(queries, top_k, selected, dense)
        both = dense is not None and lexical is not None
        matches = [None if one is None else one.count for one in selected] if any(selected) else None
        if dense is not None and lexical is not None:
            self._fill_in(queries, dense, lexical)
        return ShardHits(
            dense=None if dense is None else self._hits(dense, with_passages, both, matches),
            lexical=None if lexical is None else self._hits(lexical, with_passages, both, matches),
        )

    def _search_dense(
        self, queries: Queries, top_k: int, selected: Sequence[selection.Selection | None]
    ) -> "_Found | None":
        places = [query for query, mode in enumerate(queries.modes) if mode != "lexical"]
        if not places:
            return None
        vectors = queries.vectors
        if vectors.ndim != 2 or vectors.shape[1] != self._index.dim:
            raise InvalidArgument(
                f"queries have shape {vectors.shape}, the index needs (b, {self._index.dim})", param="queries"
            )
        found = _Found.nothing(len(vectors), top_k)
        vectors = np.ascontiguousarray(vectors[places], dtype=np.float32)
        efforts = [queries.efforts[place] if queries.efforts else "" for place in places]
        found.scores[places], found.rows[places] = self._filtered(
            vectors, top_k, [selected[place] for place in places], efforts
        )
        return found

    def _filtered(
        self,
        queries: FloatArray,
        top_k: int,
        selected: Sequence[selection.Selection | None],
        efforts: Sequence[str],
    ) -> tuple[FloatArray, RowArray]:
        """Search once for each of the different selections and efforts, with all of its queries."""
        scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), top_k), -1, dtype=np.int64)
        groups: dict[tuple[int, str], list[int]] = {}
        for number, (one, effort) in enumerate(zip(selected, efforts, strict=True)):
            groups.setdefault((id(one), effort), []).append(number)
        for (_, effort), numbers in groups.items():
            one, together = selected[numbers[0]], queries[numbers]
            if one is None:
                scores[numbers], rows[numbers] = self._index.search(together, top_k, effort=effort)
            else:
                scores[numbers], rows[numbers] = selection.search(self._index, together, top_k, one, effort)
        return scores, rows

    def _selected(self, queries: Queries, filters: Sequence[Filter | None] | None) -> list[selection.Selection | None]:
        """What the filter of each query lets through; None for a query without one."""
        count = len(queries.modes)
        if filters is None:
            return [None] * count
        if len(filters) != count:
            raise InvalidArgument(f"{count} queries need as many filters, not {len(filters)}", param="filters")
        if any(filters) and self._selections is None:
            raise InvalidArgument("this version has no metadata to filter by; build it again", param="filter")
        kept = {tree: self._selections.get(tree) for tree in filters if tree is not None and self._selections}
        return [None if tree is None else kept[tree] for tree in filters]

    def _search_lexical(
        self, queries: Queries, top_k: int, selected: Sequence[selection.Selection | None], dense: "_Found | None"
    ) -> "_Found | None":
        """Search by words, and give what hybrid queries found by vectors its score by words."""
        places = [query for query, mode in enumerate(queries.modes) if mode != "dense"]
        if not places:
            return None
        if self._lexical is None:
            raise InvalidArgument("this version has no lexical index; build it with --lexical", param="mode")
        found = _Found.nothing(len(queries.modes), top_k)
        for query in places:
            scores = self._lexical.scores(queries.texts[query])
            one = selected[query]
            best = self._lexical.best(scores if one is None else np.where(one.mask(self.count), scores, 0), top_k)
            found.scores[query, : len(best)], found.rows[query, : len(best)] = scores[best], best
            if dense is not None:
                valid = dense.rows[query] >= 0
                dense.others[query, valid] = scores[dense.rows[query, valid]]
        return found

    def _fill_in(self, queries: Queries, dense: "_Found", lexical: "_Found") -> None:
        """Give what hybrid queries found by words its score by vectors."""
        for query in (query for query, mode in enumerate(queries.modes) if mode == "hybrid"):
            valid = lexical.rows[query] >= 0
            try:
                vectors = self._index.vectors(lexical.rows[query, valid])
            except InvalidArgument:
                # An index that cannot give vectors back: what it did not find scores no more than what it found last.
                lexical.others[query, valid] = dense.scores[query, dense.rows[query] >= 0].min(initial=1.0)
                continue
            # Row by row, so that a passage has the same score whatever else was found with it.
            lexical.others[query, valid] = np.einsum("nd,d->n", vectors, queries.vectors[query])

    def _hits(self, found: "_Found", with_passages: bool, both: bool, matches: list[int | None] | None) -> Hits:
        others = found.others if both else None
        valid = [row[row >= 0].tolist() for row in found.rows]
        if not with_passages or sum(map(self._passages.size, chain.from_iterable(valid))) > MESSAGE_BYTES:
            ids = [[self._passages.id(row) for row in rows] for rows in valid]
            return Hits(found.scores, found.rows, ids, None, others, matches)
        passages = [[self._passages.passage(row) for row in rows] for rows in valid]
        ids = [[passage.id for passage in rows] for rows in passages]
        return Hits(found.scores, found.rows, ids, passages, others, matches)

    def fetch(self, rows: Sequence[int], with_vectors: bool = False) -> Fetched:
        """Return the passages, and if asked for the vectors, of rows of this shard, in the order asked.

        Those of the first rows, at least one, if all of them do not fit into one message.
        """
        self._inside(rows)
        vector_bytes = 4 * self._index.dim if with_vectors else 0
        ends = list(accumulate(self._passages.size(row) + vector_bytes for row in rows))
        rows = rows[: max(1, bisect_right(ends, MESSAGE_BYTES))]
        vectors = self._index.vectors(np.asarray(rows, dtype=np.int64)) if with_vectors else None
        return Fetched([self._passages.passage(row) for row in rows], vectors)

    def score(self, query: TextVectors, rows: Sequence[int]) -> FloatArray:
        """Score rows of this shard by late interaction with their stored token vectors, float32 (n,).

        A row has the same score whatever else is scored with it. Raises InvalidArgument for a version without token
        vectors, a row outside, and an index kind that cannot give vectors back.
        """
        if self._tokens is None:
            raise InvalidArgument(
                "this version holds no token vectors; build it with --late-interaction stored", param="rerank"
            )
        places = self._inside(rows)
        dense = np.einsum("nd,d->n", self._index.vectors(places), query.vector)
        scores: FloatArray = DENSE_WEIGHT * dense + (1 - DENSE_WEIGHT) * self._tokens.score(query.tokens, places)
        return scores

    def _inside(self, rows: Sequence[int]) -> RowArray:
        if outside := [row for row in rows if not 0 <= row < self.count]:
            raise InvalidArgument(f"row {outside[0]} is outside the {self.count} rows of this shard", param="rows")
        return np.asarray(rows, dtype=np.int64)

    def warm(self) -> None:
        """Bring the files into memory and map their pages, so that the first queries do not wait for the disk.

        Not those of which a query reads the rows of its candidates alone, and for which memory may have no room.
        """
        # By the names of the layout: in a cache, files have others.
        for name, path in self._paths.items():
            if name in (layout.EXACT, layout.LATE_CODES):
                continue
            for _ in Storage(str(path.parent)).chunks(path.name):
                pass
        self._index.search(np.zeros((1, self._index.dim), dtype=np.float32), 1)

    def close(self) -> None:
        """Let the cache evict the files. The maps end with the last reference to this object."""
        _release(self._cache, self._paths.values())
        self._paths = {}


@dataclass(frozen=True, slots=True)
class _Found:
    """What one way of searching found; the arrays of `Hits`, (b, k)."""

    scores: FloatArray
    rows: RowArray
    others: FloatArray

    @classmethod
    def nothing(cls, queries: int, top_k: int) -> "_Found":
        shape = (queries, top_k)
        return cls(
            np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        )


class Passages:
    """A mapped passages.arrow: finding a row is a binary search over the batches, and only its own bytes are read."""

    def __init__(self, path: Path) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise CorruptIndex(
                f"{path} is not an Arrow file ({error}); restore it or activate another version"
            ) from error
        if not reader.schema.equals(PASSAGE_SCHEMA):
            raise CorruptIndex(
                f"{path} does not have the columns {', '.join(PASSAGE_SCHEMA.names)}; build the index again"
            )
        # First row of each batch, and the end.
        self._starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))

    @property
    def count(self) -> int:
        """Number of passages."""
        return int(self._starts[-1])

    def id(self, row: int) -> str:
        """Return the id of a row."""
        batch, offset = self._locate(row)
        return str(batch.column(0)[offset].as_py())

    def ids(self, rows: RowArray) -> pa.StringArray:
        """Return the ids of rows, int64 (n,) ascending."""
        borders = np.searchsorted(rows, self._starts)
        parts = [
            batch.column(0).take(pa.array(rows[low:high] - start))
            for batch, start, low, high in zip(self._batches, self._starts, borders, borders[1:], strict=False)
            if low < high
        ]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def size(self, row: int) -> int:
        """Return the UTF-8 bytes of text, title and metadata of a row."""
        batch, offset = self._locate(row)
        buffers = (batch.column(number)[offset].as_buffer() for number in (1, 2, 3))
        return sum(buffer.size for buffer in buffers if buffer is not None)

    def passage(self, row: int) -> Passage:
        """Return the passage of a row."""
        return to_passage(*self._locate(row))

    def _locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]


def _to_json(passage: Passage) -> str | None:
    if not passage.metadata:
        return None
    return json.dumps(
        dict(passage.metadata), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _regular(
    blocks: Iterable[tuple[pa.RecordBatch, FloatArray]], dim: int
) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
    """Cut blocks of any size into blocks of BATCH_ROWS, so that the files do not depend on how they came."""
    table, vectors = PASSAGE_SCHEMA.empty_table(), np.empty((0, dim), dtype=np.float32)
    for batch, block in blocks:
        if block.shape != (batch.num_rows, dim) or block.dtype != np.float32:
            raise ValueError(
                f"{batch.num_rows} passages need as many float32 vectors of {dim}: {block.dtype} {block.shape}"
            )
        if not np.isfinite(block).all():
            passage = batch.column("id")[int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])].as_py()
            raise InvalidArgument(f"the vector of passage {passage!r} is not finite; check the encoder and its dtype")
        columns = [batch.column(name) for name in PASSAGE_SCHEMA.names]
        arrived = pa.Table.from_arrays(columns, schema=PASSAGE_SCHEMA)
        table, vectors = pa.concat_tables([table, arrived]), np.concatenate([vectors, block])
        while table.num_rows >= BATCH_ROWS:
            yield _one_batch(table.slice(0, BATCH_ROWS)), vectors[:BATCH_ROWS]
            table, vectors = table.slice(BATCH_ROWS), vectors[BATCH_ROWS:]
    if table.num_rows:
        yield _one_batch(table), vectors


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    # take() copies: a slice would carry the padding and the spare validity bits of what it was cut from into the file.
    (batch,) = table.combine_chunks().take(np.arange(table.num_rows)).to_batches()
    return batch


def _byte_count(texts: pa.LargeStringArray) -> int:
    return pc.sum(pc.binary_length(texts)).as_py() or 0


def _fetch(storage: Storage, version: str, file: FileEntry, cache: ShardCache | None, verify: bool) -> Path:
    path = f"{layout.version_dir(version)}/{file.path}"
    if not storage.is_local and cache is not None:
        return cache.path(storage, path, file.sha256, file.bytes)
    if verify and (problem := file_problem(storage, path, file)):
        raise CorruptIndex(f"{problem}; restore it or activate another version")
    return storage.local_path(path)


def _release(cache: ShardCache | None, paths: Iterable[Path]) -> None:
    if cache is not None:
        for path in paths:
            cache.release(path)
