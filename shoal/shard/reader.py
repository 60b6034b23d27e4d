"""One opened shard of a version: searches by vectors and by words, fetches passages, scores by stored tokens.

Long because all of it reads the files of one shard.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from shoal.encoders import TextVectors
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.filters import Filter, InNamespace, Value, conditions, in_namespace
from shoal.index_root import layout
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import FileEntry, Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.versions import file_problem
from shoal.indexes import ShardIndex, index_kind, search_on_gpu
from shoal.late.codec import Codes
from shoal.late.index import StoredTokens
from shoal.late.sentences import SentenceTokens
from shoal.lexical.index import LexicalIndex
from shoal.namespaces import DEFAULT
from shoal.records import FloatArray, Passage, RowArray
from shoal.rerankers.late_interaction import DENSE_WEIGHT, dense_weight_of
from shoal.settings import IndexSettings
from shoal.shard import selection
from shoal.shard.arrays import from_numbers
from shoal.shard.columns import Columns
from shoal.shard.dense import DenseRetriever
from shoal.shard.id_order import IdOrder
from shoal.shard.lexical import LexicalRetriever
from shoal.shard.messages import MESSAGE_BYTES, Fetched, Hits, ShardHits, ShardQuery
from shoal.shard.namespaces import NamespaceRows
from shoal.shard.passages import Passages
from shoal.shard.retrieval import RetrieverHits, retrieve
from shoal.shard.retriever import ShardRetriever
from shoal.shard.retrievers import open_retrievers

FILTER_BYTES = 2**20
"""Bytes for what filters have selected in a run, or among rows without metadata, which is none or all of them."""
_COLD = (
    layout.EXACT,
    layout.LATE_CODES,
    layout.DOCUMENTS,
    layout.ORDER,
    layout.LEXICAL_LENGTHS,
    layout.LEXICAL_COUNTS,
)
"""Files that are not brought into memory before the first query; see `Shard.warm`."""


class Shard:
    """An opened, read-only shard. Safe for concurrent calls; everything lies in mapped files."""

    def __init__(  # noqa: PLR0913 - made in two places, `open` and `shard_in_memory`
        self,
        index: ShardIndex,
        retrievers: dict[str, ShardRetriever],
        passages: Passages,
        selections: selection.Selections | None,
        namespaces: NamespaceRows | None,
        paths: Mapping[str, Path],
        cache: ShardCache | None,
        tokens: StoredTokens | None = None,
        dense_weight: float = DENSE_WEIGHT,
    ) -> None:
        self._index = index
        self._tokens = tokens
        self._dense_weight = dense_weight
        self._retrievers = retrievers
        self._passages = passages
        self.ids = IdOrder(passages)
        """Where ids are, and their order."""
        self._selections = selections
        self._namespaces = namespaces
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

        Args:
            cache: Where the files of a remote root are kept; it checks them whatever `verify` says.
            threads: Of one search.
            filter_cache_bytes: Memory for what filters have selected before.

        Raises:
            NotFound: A shard that the version does not have.
            CorruptIndex: Naming the file that does not match.
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
            namespaces = _open_namespaces(paths.get(layout.NAMESPACES), entry.count)
            columns = _open_columns(paths.get(layout.METADATA), manifest, entry.count)
            if not (index.count == passages.count == entry.count and index.dim == manifest.dim):
                raise CorruptIndex(
                    f"shard {shard} of {manifest.version} holds {index.count} vectors of {index.dim} dimensions and "
                    f"{passages.count} passages, its manifest says {entry.count} of {manifest.dim}; "
                    "activate another version"
                )
            retrievers = open_retrievers(manifest, index, passages, paths)
            tokens = None
            if manifest.late is not None:
                tokens = StoredTokens(paths, entry.count, manifest.late, threads)
        except BaseException:
            _release(cache, paths.values())
            raise
        if columns is None and namespaces is not None:
            columns = Columns.empty(entry.count)
        selections = selection.Selections(columns, index, filter_cache_bytes, namespaces) if columns else None
        dense_weight = dense_weight_of(manifest.encoder)
        return cls(index, retrievers, passages, selections, namespaces, paths, cache, tokens, dense_weight)

    def on(self, device: str) -> Self:
        """Return the shard, which searches vectors there from now on: `cpu`, or `cuda` where kind and query allow it.

        Raises InvalidArgument without a GPU, and where its memory is full; then the shard is closed.
        """
        if device == "cpu":
            return self
        try:
            self._index = search_on_gpu(self._index)
        except BaseException:
            self.close()
            raise
        self._retrievers = {**self._retrievers, "dense": DenseRetriever(self._index, self._passages.ids)}
        return self

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
        queries: Sequence[ShardQuery],
        top_k: int,
        with_passages: bool,
        alive: selection.Selection | None = None,
    ) -> ShardHits:
        """Search for b queries with the retrievers that their modes use; the arrays of the hits are (b, top_k).

        Args:
            queries: Each with its own mode and filter.
            top_k: Rows that each retriever finds for each query at most.
            with_passages: Passages come with the hits, unless they would not fit into one message.
            alive: The rows that are still there, as bits; None for all.

        Raises:
            InvalidArgument: A vector has another dimension, the version has no metadata to filter by, or none of a
                retriever that a mode needs.
        """
        found, matches = self.retrieve(queries, top_k, alive)
        return ShardHits({name: self._hits(hits, with_passages) for name, hits in found.items()}, matches)

    def retrieve(
        self, queries: Sequence[ShardQuery], top_k: int, alive: selection.Selection | None
    ) -> tuple[dict[str, RetrieverHits], list[int | None] | None]:
        """Search as `search` does; returns rows and scores by retriever, and what is in `ShardHits.matches`."""
        trees = [query.filter for query in queries]
        selections = self._selected(trees, alive)
        found = retrieve(self._retrievers, queries, top_k, selections)
        return found, _matches(trees, selections) if any(trees) else None

    def ids_of(self, rows: RowArray) -> pa.StringArray:
        """Return the ids of rows, int64 (n,) ascending."""
        return self._passages.ids(rows)

    def _selected(
        self, trees: Sequence[Filter | None], alive: selection.Selection | None
    ) -> list[selection.Selection | None]:
        """Which of the rows that are there each filter lets through; None for all rows."""
        trees = [self._in_its_namespace(tree) for tree in trees]
        if not any(trees):
            return [alive] * len(trees)
        kept = {tree: self._select(tree) for tree in trees if tree is not None}
        if alive is not None:
            kept = {tree: selected.among(alive) for tree, selected in kept.items()}
        return [alive if tree is None else kept[tree] for tree in trees]

    def _in_its_namespace(self, tree: Filter | None) -> Filter | None:
        """The filter with its namespace, which is the default one where it names none; unless that has all rows."""
        if isinstance(tree, InNamespace) and tree.namespace != DEFAULT:
            return tree
        tree = conditions(tree)
        return tree if self._namespaces is None else InNamespace(DEFAULT, tree)

    def _select(self, tree: Filter) -> selection.Selection:
        if self._namespaces is None and isinstance(tree, InNamespace):
            return selection.NOTHING
        if self._selections is None:
            raise InvalidArgument("this version has no metadata to filter by; build it again", param="filter")
        return self._selections.get(tree)

    def count_namespaces(self, alive: selection.Selection | None = None) -> dict[str, int]:
        """Count the passages that are still there in each namespace that has any."""
        if self._namespaces is not None:
            return self._namespaces.counts(None if alive is None else alive.mask(self.count))
        count = self.count if alive is None else alive.count
        return {DEFAULT: count} if count else {}

    def count_namespace(self, namespace: str, alive: selection.Selection | None = None) -> int:
        """Count the passages of one namespace that are still there."""
        (selected,) = self._selected([in_namespace(namespace, None)], alive)
        return self.count if selected is None else selected.count

    def values(self, field: str, tree: Filter | None, alive: selection.Selection | None = None) -> pa.ChunkedArray:
        """Return the values of a metadata field in the rows that a filter lets through, or all, in their order.

        Args:
            field: Its name.
            tree: The filter; None for all rows.
            alive: The rows that are still there, as bits; None for all.

        Raises:
            InvalidArgument: The version has no metadata.
        """
        column = self._column(field)
        (selected,) = self._selected([tree], alive)
        return column if selected is None else selected.take(column)

    def _column(self, field: str) -> pa.ChunkedArray:
        if self._selections is None:
            raise InvalidArgument("this version has no metadata; build it again", param="filter")
        return self._selections.columns.column(field)

    def parts(self) -> "list[ShardPart]":
        """Return what the shard consists of."""
        return [(self, None, 0)]

    def rows(self, tree: Filter | None, alive: selection.Selection | None = None) -> RowArray:
        """Return the rows that a filter lets through, of those that are still there, int64 (n,) ascending.

        Raises InvalidArgument for a version without metadata, where there are conditions.
        """
        (selected,) = self._selected([tree], alive)
        return np.arange(self.count) if selected is None else np.flatnonzero(selected.mask(self.count))

    def values_of(self, field: str, rows: RowArray) -> list[Value | None]:
        """Return the values of a metadata field in some rows, int64 (n,), a timestamp in microseconds since 1970.

        Raises InvalidArgument for a version without metadata.
        """
        column = self._column(field).take(from_numbers(rows))
        values: list[Value | None] = (
            column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        ).to_pylist()
        return values

    def _hits(self, found: RetrieverHits, with_passages: bool) -> Hits:
        other_scores = found.other_scores or None
        valid = [line[line >= 0] for line in found.rows]
        read = self._passages.within(np.concatenate(valid).tolist(), MESSAGE_BYTES) if with_passages else None
        if read is None:
            ids = [self._passages.ids_in_order(line) for line in valid]
            return Hits(found.scores, found.rows, ids, None, other_scores)
        in_order = iter(read)
        passages = [list(islice(in_order, len(line))) for line in valid]
        ids = [[passage.id for passage in line] for line in passages]
        return Hits(found.scores, found.rows, ids, passages, other_scores)

    def fetch(self, rows: Sequence[int], with_vectors: bool = False) -> Fetched:
        """Return the passages, and if asked for the vectors, of rows of this shard, in the order asked.

        Those of the first rows, at least one, if all of them do not fit into one message.
        """
        self.inside(rows)
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
        tokens, places = self._stored_tokens(), self.inside(rows)
        dense = np.einsum("nd,d->n", self._index.vectors(places), query.vector)
        weight = self._dense_weight
        scores: FloatArray = weight * dense + (1 - weight) * tokens.score(query.tokens, places)
        return scores

    def sentence_scores(
        self, query: FloatArray, rows: Sequence[int], sentences: Sequence[SentenceTokens]
    ) -> list[FloatArray | None]:
        """Score the sentences of n rows of this shard by their stored token vectors, float32 (s_i,) each.

        Args:
            query: Vectors of the tokens of the query, float (t, hidden).
            rows: N, of passages.
            sentences: Of each of them (`shoal.late.sentences`).

        Returns:
            None for a row that has another number of tokens.

        Raises:
            InvalidArgument: A version without token vectors, or a row outside.
        """
        tokens, places = self._stored_tokens(), self.inside(rows).tolist()
        return [tokens.sentence_scores(query, row, of_row) for row, of_row in zip(places, sentences, strict=True)]

    def _stored_tokens(self) -> StoredTokens:
        if self._tokens is None:
            raise InvalidArgument(
                "this version holds no token vectors; build it with --late-interaction stored", param="rerank"
            )
        return self._tokens

    def content(self, row: int) -> str:
        """Return title and text of a row, as encoders read them."""
        return self._passages.passage(row).content

    def inside(self, rows: Sequence[int]) -> RowArray:
        """Return rows of this shard as int64 (n,). Raises InvalidArgument for one outside."""
        if outside := [row for row in rows if not 0 <= row < self.count]:
            raise InvalidArgument(f"row {outside[0]} is outside the {self.count} rows of this shard", param="rows")
        return np.asarray(rows, dtype=np.int64)

    def allow_new_fields(self) -> None:
        """Let filters name fields that came with documents after the version was built: no row here has one."""
        if self._selections is None:
            self._selections = selection.Selections(Columns.empty(self.count), self._index, FILTER_BYTES)

    def sizes(self, rows: Sequence[int]) -> list[int]:
        """UTF-8 bytes of text, title and metadata of rows."""
        return [self._passages.size(row) for row in rows]

    def id(self, row: int) -> str:
        """Return the id of the passage in a row."""
        return self._passages.id(row)

    def passage(self, row: int) -> Passage:
        """Return the passage in a row."""
        return self._passages.passage(row)

    def batches(self, rows: RowArray) -> list[pa.RecordBatch]:
        """Return the passages of rows, int64 (n,) ascending, as record batches of PASSAGE_SCHEMA."""
        return self._passages.batches(rows)

    @property
    def columns(self) -> Columns | None:
        """Its metadata; None for a version without."""
        return None if self._selections is None else self._selections.columns

    @property
    def lexical(self) -> LexicalIndex | None:
        """Its lexical index; None where passages are not found by their words."""
        retriever = self._retrievers.get("lexical")
        return retriever.index if isinstance(retriever, LexicalRetriever) else None

    def path(self, name: str) -> Path | None:
        """Where a file lies, by its name in `shoal.index_root.layout`; None if the shard has no such file."""
        return self._paths.get(name)

    def vectors(self, rows: RowArray) -> FloatArray | None:
        """Vectors of rows, int64 (n,), as near as the index keeps them, float32 (n, dim); None if it gives none."""
        try:
            return self._index.vectors(rows)
        except InvalidArgument:
            return None

    def codes(self, rows: RowArray) -> list[Codes] | None:
        """Codes of the tokens of rows, int64 (n,), uint8 (t_i, width) each; None where none are stored."""
        return None if self._tokens is None else [self._tokens.codes(row) for row in rows.tolist()]

    def warm(self) -> None:
        """Bring the files into memory and map their pages, so that the first queries do not wait for the disk.

        Not those of which a query reads the rows of its candidates alone, and for which memory may have no room, nor
        those that no query reads.
        """
        # By the names of the layout: in a cache, files have others.
        for name, path in self._paths.items():
            if name in _COLD:
                continue
            for _ in Storage(str(path.parent)).chunks(path.name):
                pass
        self._index.search(np.zeros((1, self._index.dim), dtype=np.float32), 1)

    def close(self) -> None:
        """Let the cache evict the files. The maps end with the last reference to this object."""
        _release(self._cache, self._paths.values())
        self._paths = {}


def _matches(trees: Sequence[Filter | None], selections: Sequence[selection.Selection | None]) -> list[int | None]:
    """How many rows each filter lets through; None where there is no filter."""
    pairs = zip(trees, selections, strict=True)
    return [None if tree is None or selected is None else selected.count for tree, selected in pairs]


ShardPart = tuple[Shard, selection.Selection | None, int]
"""A shard that is searched as a part of another: itself, which of its rows are there, and the number of its first."""


def _open_namespaces(path: Path | None, count: int) -> NamespaceRows | None:
    """Open the namespaces of a shard of so many passages, if it has any but the default one."""
    return None if path is None else NamespaceRows.open(path, count)


def _open_columns(path: Path | None, manifest: Manifest, count: int) -> Columns | None:
    """Open the metadata of a shard of so many passages, if it has any. Raises CorruptIndex for another number."""
    if path is None:
        return None
    columns = Columns(path, manifest.fields)
    if columns.count != count:
        raise CorruptIndex(f"{path} has {columns.count} rows, its manifest says {count}; activate another version")
    return columns


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
