"""One opened shard of a version: searches by vectors and by words, fetches passages, scores by stored tokens."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from shoal.encoders import TextVectors
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.filters import Filter
from shoal.index_root import layout
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import FileEntry, Manifest
from shoal.index_root.storage import Storage
from shoal.index_root.versions import file_problem
from shoal.indexes import ShardIndex, index_kind
from shoal.late.index import StoredTokens
from shoal.lexical.index import LexicalIndex
from shoal.records import FloatArray, Hits, Queries, RowArray, ShardHits
from shoal.rerankers.late_interaction import DENSE_WEIGHT
from shoal.search.services import MESSAGE_BYTES, Fetched
from shoal.settings import IndexSettings
from shoal.shard import selection
from shoal.shard.columns import Columns
from shoal.shard.passages import Passages


class Shard:
    """An opened, read-only shard. Safe for concurrent calls; everything lies in mapped files."""

    def __init__(
        self,
        index: ShardIndex,
        lexical: LexicalIndex | None,
        passages: Passages,
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
