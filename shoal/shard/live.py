"""A shard that documents come to: the shard of a version, and what the log has changed since.

What has gone is marked in bitmaps; what has come lies in runs, small shards of their own (`shoal.shard.runs`). A search
asks each of them and joins what they found. Entries of the log change all of it at once: searches see what was before
or what is after.

Long because all of it reads one state, which entries replace.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pyarrow as pa

from shoal.encoders import TextVectors
from shoal.errors import Conflict, InvalidArgument, Unavailable
from shoal.filters import Filter, Value
from shoal.index_root import layout
from shoal.index_root.digests import document_digests
from shoal.index_root.log_entry import DocumentWrite, LogEntry
from shoal.index_root.manifest import Manifest
from shoal.late.sentences import SentenceTokens
from shoal.lexical.scoring import TermStatistics
from shoal.metadata import FieldTypes
from shoal.modes import RETRIEVERS_OF
from shoal.records import FloatArray, Passage, RowArray
from shoal.shard import live_fields
from shoal.shard.documents import Documents
from shoal.shard.live_hits import joined, joined_matches
from shoal.shard.live_ids import LiveIds
from shoal.shard.messages import MESSAGE_BYTES, REPLICA_ROWS, Fetched, ShardHits, ShardQuery, replica_of
from shoal.shard.reader import Shard, ShardPart
from shoal.shard.runs import RunMaker, Segment, codec_of, runs_to_merge
from shoal.shard.segments import hits_of, ids_of
from shoal.shard.stored_documents import StoredDocument, stored_document
from shoal.system.array_files import map_array

KEPT_S = 60.0
"""Seconds for which rows of merged runs can still be fetched, by searches that found them before."""

Writes = dict[str, tuple[int, DocumentWrite]]
"""The last write of each document, with its position."""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What a search sees. Never changed: entries make another one.

    segments: that of the version, then the runs.
    next_row: number that no row of any segment has had.
    fields: types of the metadata fields.
    retired: segments that only `fetch` and `score` may still ask for, and until when.
    """

    position: int
    segments: tuple[Segment, ...]
    next_row: int
    fields: FieldTypes
    retired: tuple[tuple[Segment, float], ...] = ()


class LiveShard:
    """A shard with the interface of `Shard`, and what came to it. Safe for concurrent calls; entries come one by one.

    Args:
        shard: That of the version; closed with this one.
        manifest: Of the version.
        number: Of the shard.
        threads: Of one search.
        statistics: Gives those of a query that brings none, as the coordinator of a search does that knows of no entry
            yet; None where none can come before it.
        position: Up to which position of the log the version is complete.
        replica: Of the shard, a number that no other one has; 0 where there is one.
        clock: Seconds from any start.
    """

    def __init__(  # noqa: PLR0913 - made in one place, `LiveIndex`
        self,
        shard: Shard,
        manifest: Manifest,
        number: int,
        *,
        threads: int,
        statistics: Callable[[str], TermStatistics] | None = None,
        position: int = 0,
        replica: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = shard
        shard.allow_new_fields()  # at once: others get fields too, and a coordinator may know them earlier
        self._manifest = manifest
        self._number = number
        self._threads = threads
        self._statistics = statistics
        self._complete_to = position
        self._clock = clock
        self._applying = threading.Lock()
        self._maker: RunMaker | None = None
        self._documents: Documents | None = None
        # No run begins at the row 0 of a version without passages: segments are told apart by their first rows.
        next_row = replica * REPLICA_ROWS + max(1, shard.count)
        self._state = _State(position, (Segment(shard, 0, None),), next_row, manifest.fields)
        self.ids = LiveIds(lambda: self._state.segments)
        """Where ids are, and their order."""

    @property
    def position(self) -> int:
        """The position of the log up to which all entries are seen."""
        return self._state.position

    @property
    def fields(self) -> FieldTypes:
        """Types of the metadata fields."""
        return self._state.fields

    @property
    def count(self) -> int:
        """Number of passages."""
        return sum(segment.alive_count for segment in self._state.segments)

    @property
    def live_rows(self) -> int:
        """Rows of runs, those that have gone again among them."""
        return sum(segment.shard.count for segment in self._state.segments[1:])

    @property
    def dead_rows(self) -> int:
        """Rows that have gone and still take their place."""
        return sum(segment.shard.count - segment.alive_count for segment in self._state.segments)

    @property
    def live_bytes(self) -> int:
        """Bytes of the files of runs."""
        return sum(segment.bytes for segment in self._state.segments)

    @property
    def filter_lookups(self) -> tuple[int, int]:
        """Filters that were asked for of the version's shard and, of these, those whose rows were remembered."""
        return self._base.filter_lookups

    def search(self, queries: Sequence[ShardQuery], top_k: int, with_passages: bool) -> ShardHits:
        """Search for b queries, as `Shard.search` does, among what is there now."""
        state = self._state
        if state.position == self._complete_to and all(query.statistics is None for query in queries):
            found = self._base.search(queries, top_k, with_passages)
            return replace(found, position=state.position) if state.position else found
        queries = [self._with_statistics(query) for query in queries]
        if len(state.segments) == 1:
            (base,) = state.segments
            found = base.shard.search(queries, top_k, with_passages, base.alive)
            return replace(found, position=state.position)
        parts = [segment.shard.retrieve(queries, top_k, segment.alive) for segment in state.segments]
        starts = [segment.start for segment in state.segments]
        hits = {
            name: joined(
                [(hits[name], start) for (hits, _), start in zip(parts, starts, strict=True)],
                top_k,
                lambda rows: ids_of(state.segments, rows),
            )
            for name in parts[0][0]
        }
        by_retriever = {name: hits_of(state.segments, one, with_passages) for name, one in hits.items()}
        return ShardHits(by_retriever, joined_matches([matches for _, matches in parts]), state.position)

    def _with_statistics(self, query: ShardQuery) -> ShardQuery:
        if query.statistics is not None or "lexical" not in RETRIEVERS_OF[query.mode] or self._statistics is None:
            return query
        return replace(query, statistics=self._statistics(query.text))

    def values(self, field: str, tree: Filter | None) -> pa.ChunkedArray:
        """Return the values of a metadata field in the rows that a filter lets through, or all; as `Shard.values`."""
        segments = self._state.segments
        if len(segments) == 1 and segments[0].alive is None:
            return self._base.values(field, tree)
        columns = [segment.shard.values(field, tree, segment.alive) for segment in segments]
        columns = [column for column in columns if not pa.types.is_null(column.type)]
        if not columns:
            return pa.chunked_array([], pa.string())
        widest = max((column.type for column in columns), key=pa.types.is_floating)
        return pa.chunked_array([chunk.cast(widest) for column in columns for chunk in column.chunks], widest)

    def parts(self) -> list[ShardPart]:
        """Return what is searched together now; as `Shard.parts`."""
        return [(segment.shard, segment.alive, segment.start) for segment in self._state.segments]

    def fetch(self, rows: Sequence[int], with_vectors: bool = False) -> Fetched:
        """Return the passages, and if asked for the vectors, of rows of this shard, in the order asked.

        Those of the first rows, at least one, if all of them do not fit into one message. Rows that have gone since a
        search found them are still there for a minute.
        """
        places = self._places(rows)
        vector_bytes = 4 * self._manifest.dim if with_vectors else 0
        ends = list(accumulate(segment.shard.sizes([row])[0] + vector_bytes for segment, row in places))
        places = places[: max(1, bisect_right(ends, MESSAGE_BYTES))]
        passages: list[Passage | None] = [None] * len(places)
        vectors = np.zeros((len(places), self._manifest.dim), np.float32) if with_vectors else None
        for segment, numbers in _by_segment(places):
            fetched = segment.shard.fetch([places[number][1] for number in numbers], with_vectors)
            for number, passage in zip(numbers, fetched.passages, strict=True):
                passages[number] = passage
            if vectors is not None:
                vectors[numbers] = fetched.vectors
        return Fetched([passage for passage in passages if passage is not None], vectors)

    def score(self, query: TextVectors, rows: Sequence[int]) -> FloatArray:
        """Score rows of this shard by late interaction with their stored token vectors; as `Shard.score`."""
        places = self._places(rows)
        scores = np.zeros(len(places), np.float32)
        for segment, numbers in _by_segment(places):
            scores[numbers] = segment.shard.score(query, [places[number][1] for number in numbers])
        return scores

    def sentence_scores(
        self, query: FloatArray, rows: Sequence[int], sentences: Sequence[SentenceTokens]
    ) -> list[FloatArray | None]:
        """Score the sentences of rows of this shard by their stored token vectors; as `Shard.sentence_scores`."""
        scores: list[FloatArray | None] = []
        for (segment, own), of_row in zip(self._places(rows), sentences, strict=True):
            scores += segment.shard.sentence_scores(query, [own], [of_row])
        return scores

    def content(self, row: int) -> str:
        """Return what encoders read of the passage in a row."""
        ((segment, own),) = self._places([row])
        return segment.shard.content(own)

    def inside(self, rows: Sequence[int]) -> RowArray:
        """Return rows as int64 (n,). Raises InvalidArgument for a row that never was."""
        self._places(rows)
        return np.asarray(rows, dtype=np.int64)

    def values_of(self, field: str, rows: RowArray) -> list[Value | None]:
        """Return the values of a metadata field in some rows; as `Shard.values_of`."""
        places = self._places(rows.tolist())
        values: list[Value | None] = [None] * len(places)
        for segment, numbers in _by_segment(places):
            own = np.array([places[number][1] for number in numbers], np.int64)
            for number, value in zip(numbers, segment.shard.values_of(field, own), strict=True):
                values[number] = value
        return values

    def _places(self, rows: Sequence[int]) -> list[tuple[Segment, int]]:
        """The segment of each row, and its number there. Raises InvalidArgument for a row that never was."""
        state = self._state
        segments = sorted((*state.segments, *(segment for segment, _ in state.retired)), key=lambda one: one.start)
        starts = [segment.start for segment in segments]
        places = []
        for row in rows:
            segment = segments[max(0, bisect_right(starts, row) - 1)]
            if not segment.start <= row < segment.end:
                if replica_of(max(0, row)) not in (0, replica_of(state.next_row)):
                    raise Conflict(f"row {row} was found in another replica of this shard")
                if 0 <= row < state.next_row:
                    raise Unavailable("what was found has been merged since; search again", retry_after_s=1)
                raise InvalidArgument(f"row {row} is outside the {state.next_row} rows of this shard", param="rows")
            places.append((segment, row - segment.start))
        return places

    def lookup(self, documents: Sequence[str]) -> list[StoredDocument | None]:
        """Return what the shard holds of documents, by their ids; None for those that it does not hold.

        Raises Conflict for a version that cannot take writes, naming the remedy.
        """
        self._require_look_up()
        state = self._state
        found = self._find(state, documents)
        return [
            None if document not in found else stored_document(document, *found[document], self._positions())
            for document in documents
        ]

    def matching_ids(self, tree: Filter | None, limit: int) -> list[str]:
        """Return the ids of at most so many passages that a filter lets through; of any passages without one."""
        ids: list[str] = []
        for segment in self._state.segments:
            rows = segment.shard.rows(tree, segment.alive)[: limit - len(ids)]
            ids += [segment.shard.id(row) for row in rows.tolist()]
        return ids

    def apply(self, entries: Sequence[LogEntry]) -> None:
        """Take entries of the log into account, those that follow what is seen already, in their order.

        Args:
            entries: Of all shards; those of others change nothing but the position.

        Raises:
            Conflict: The version was built before it could take writes; the remedy is named.
        """
        with self._applying:
            state = self._state
            entries = [entry for entry in entries if entry.position > state.position]
            if not entries:
                return
            writes = self._own_writes(entries)
            fields = live_fields.after(state.fields, entries)
            if writes:
                self._require_look_up()
                state = self._merged(self._changed(state, writes, fields), fields)
            self._state = replace(state, position=entries[-1].position, fields=fields)

    def _own_writes(self, entries: Sequence[LogEntry]) -> Writes:
        shards, writes = len(self._manifest.shards), Writes()
        for entry in entries:
            digests = document_digests(write.document for write in entry.documents)
            for number in np.flatnonzero(digests % np.uint64(shards) == self._number).tolist():
                write = entry.documents[number]
                writes[write.document] = entry.position, write
        return writes

    def _changed(self, state: _State, writes: Writes, fields: FieldTypes) -> _State:
        """The state after documents were written: earlier rows are marked as gone, new ones lie in a run."""
        gone: dict[int, list[int]] = {}
        for segment, rows, _ in self._find(state, list(writes)).values():
            gone.setdefault(segment.start, []).extend(rows)
        segments = [segment.without(gone.get(segment.start, [])) for segment in state.segments]
        next_row = state.next_row
        if any(write.passages for _, write in writes.values()):
            run = self._run_maker().of_documents(list(writes.values()), next_row, fields)
            segments.append(run)
            next_row = run.end
        return replace(state, segments=tuple(segments), next_row=next_row)

    def _merged(self, state: _State, fields: FieldTypes) -> _State:
        """The state after runs of one size class were merged, and those of which nothing is left were dropped."""
        now = self._clock()
        retired = [(segment, until) for segment, until in state.retired if until > now]
        base, *runs = state.segments
        next_row = state.next_row
        while old := runs_to_merge(runs):
            runs = [run for run in runs if run not in old]
            retired += [(run, now + KEPT_S) for run in old]
            if any(run.alive_count for run in old):
                merged = self._run_maker().merged(old, next_row, fields)
                runs.append(merged)
                next_row = merged.end
        return replace(state, segments=(base, *runs), next_row=next_row, retired=tuple(retired))

    def _find(self, state: _State, documents: Sequence[str]) -> dict[str, tuple[Segment, list[int], int]]:
        """Where documents lie: their segment, their rows in it, and the position of their write (-1 in a version)."""
        found: dict[str, tuple[Segment, list[int], int]] = {}
        base, *runs = state.segments
        for run in runs:
            assert run.documents is not None
            for document in documents:
                lying = run.documents.get(document)
                if lying is not None and run.is_alive(lying.first):
                    found[document] = run, list(range(lying.first, lying.first + lying.count)), lying.position
        wanted = [document for document in documents if document not in found]
        for document, rows in self._base_rows(wanted).items():
            alive = [row for row in rows if base.is_alive(row)]
            if alive:
                found[document] = base, alive, -1
        return found

    def _base_rows(self, documents: Sequence[str]) -> dict[str, list[int]]:
        """Rows of the version's shard by document."""
        if not documents or not self._base.count or self._documents is None:
            return {}
        wanted = set(documents)
        rows: dict[str, list[int]] = {}
        for row in self._documents.rows(document_digests(documents)).tolist():
            document = self._document_of(self._base.id(row))
            if document in wanted:  # a digest is no proof
                rows.setdefault(document, []).append(row)
        return rows

    def _document_of(self, passage: str) -> str:
        return passage if self._manifest.build.get("chunk_characters") is None else passage.rpartition("#")[0]

    def _positions(self) -> RowArray | None:
        """The position of the last write of each row of the version's shard; None where all came from a source."""
        path = self._base.path(layout.POSITIONS)
        return None if path is None else map_array(path)

    def _require_look_up(self) -> None:
        """Open the look-up of documents. Raises Conflict for a version that lacks what writes need."""
        if self._documents is not None:
            return
        if self._manifest.encoder.sparse is not None:
            raise Conflict(
                f"version {self._manifest.version} is searched by the terms of a sparse encoder, and takes no writes: "
                "add to the source and build again, or build without --sparse-encoder"
            )
        documents, order = self._base.path(layout.DOCUMENTS), self._base.path(layout.ORDER)
        lexical = self._base.lexical
        if documents is None or order is None or (lexical is not None and not lexical.has_frequencies):
            raise Conflict(
                f"version {self._manifest.version} was built before documents could be written to an index; build it "
                "again, which embeds nothing anew"
            )
        self._documents = Documents.open(documents, order, self._base.count)

    def _run_maker(self) -> RunMaker:
        if self._maker is None:
            late, path = self._manifest.late, self._base.path(layout.LATE_PROJECTION)
            codec = None if late is None or path is None else codec_of(path, late.bits)
            self._maker = RunMaker(self._manifest, self._number, self._threads, codec)
        return self._maker

    def warm(self) -> None:
        """Bring the files of the version's shard into memory; see `Shard.warm`."""
        self._base.warm()

    def close(self) -> None:
        """Let the cache evict the files of the version's shard; see `Shard.close`."""
        self._base.close()


def _by_segment(places: Sequence[tuple[Segment, int]]) -> list[tuple[Segment, list[int]]]:
    """Which of some places lie in each segment."""
    groups: dict[int, tuple[Segment, list[int]]] = {}
    for number, (segment, _) in enumerate(places):
        groups.setdefault(segment.start, (segment, []))[1].append(number)
    return list(groups.values())
