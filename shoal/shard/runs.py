"""Runs: small shards of documents that were written after the version was built, each made in one go.

A run lies in memory. A large one is written as a build writes a shard, with a `flat` index, into a temporary folder
that is gone as soon as its files are mapped. What lies in it comes from the log, and a restart reads that again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.errors import InvalidArgument
from shoal.index_root import layout
from shoal.index_root.log_entry import DocumentWrite, WrittenPassage
from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.late.codec import Codec
from shoal.late.writer import COLUMN, TokenWriter, column_of
from shoal.lexical.postings import Postings, PostingsWriter
from shoal.metadata import FieldTypes
from shoal.records import Passage, RowArray
from shoal.rerankers.late_interaction import dense_weight_of
from shoal.shard.columns import Columns
from shoal.shard.memory import ShardContents, shard_in_memory
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from shoal.shard.selection import Selection
from shoal.shard.writer import write_shard
from shoal.system.array_files import load_array
from shoal.system.temporary import temporary_folder

CLASS_ROWS, CLASS_FACTOR = 64, 12
"""Runs of fewer rows than the first number are of one size class, and each further class takes so many times more.

Of each class there is one run: a search asks every run, which takes some tenths of a millisecond however small it is. A
row is copied about CLASS_FACTOR / 2 times in each class.
"""
FILE_ROWS = 8192
"""Rows from which on a run lies in files, which the machine may drop from memory and read again."""


@dataclass(frozen=True, slots=True)
class DocumentRows:
    """Where the passages of a document lie in a run: `count` rows from `first` on, written at `position`."""

    first: int
    count: int
    position: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A shard among those that are searched together: that of the version, or a run.

    start: number of its first row among the rows of all segments.
    alive: which of its rows are still there, as bits; None for all of them.
    documents: of a run, by their ids; None for the shard of the version.
    bytes: of the files of a run.
    """

    shard: Shard
    start: int
    alive: Selection | None
    documents: Mapping[str, DocumentRows] | None = None
    bytes: int = 0

    @property
    def end(self) -> int:
        """Number of the row behind its last one."""
        return self.start + self.shard.count

    @property
    def alive_count(self) -> int:
        """How many of its rows are still there."""
        return self.shard.count if self.alive is None else self.alive.count

    @property
    def size_class(self) -> int:
        """Which runs it is merged with."""
        return size_class(self.shard.count)

    def is_alive(self, row: int) -> bool:
        """Whether one of its own rows is still there."""
        return self.alive is None or bool(self.alive.holds(np.array([row]))[0])

    def alive_rows(self) -> RowArray:
        """Its own rows that are still there, int64 (n,) ascending."""
        if self.alive is None:
            return np.arange(self.shard.count)
        return np.flatnonzero(self.alive.mask(self.shard.count))

    def without(self, rows: Sequence[int]) -> "Segment":
        """The same segment after some of its own rows have gone."""
        if not rows:
            return self
        count = self.shard.count
        bits = np.packbits(np.ones(count, np.bool_), bitorder="little") if self.alive is None else self.alive.bits
        assert bits is not None
        bits, gone = bits.copy(), np.array(rows, np.int64)
        np.bitwise_and.at(bits, gone >> 3, ~(np.uint8(1) << (gone & 7).astype(np.uint8)))
        alive = Selection(int(np.bitwise_count(bits).sum()), None, bits, is_usual=True)
        return Segment(self.shard, self.start, alive, self.documents, self.bytes)


@dataclass(frozen=True, slots=True)
class RunMaker:
    """Makes the runs of one shard of a version.

    codec: what the token vectors of the version are reduced with; None where none are stored.
    """

    manifest: Manifest
    shard: int
    threads: int
    codec: Codec | None

    def of_documents(self, writes: Sequence[tuple[int, DocumentWrite]], start: int, fields: FieldTypes) -> Segment:
        """Make a run of documents, each with the position of its write; at least one has passages.

        Raises InvalidArgument for a vector that is not finite.
        """
        passages: list[WrittenPassage] = []
        documents: dict[str, DocumentRows] = {}
        for position, write in writes:
            if write.passages:
                documents[write.document] = DocumentRows(len(passages), len(write.passages), position)
                passages += write.passages
        vectors = np.array([one.vector for one in passages], np.float32)
        if not np.isfinite(vectors).all():
            number = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InvalidArgument(f"the vector of passage {passages[number].id!r} is not finite; write it again")
        codes = None
        if self.codec is not None:
            none = np.zeros((1, self.codec.width), np.uint8)  # of a passage without text: each has a token at least
            codes = [none if one.codes is None else one.codes for one in passages]
        contents = ShardContents(
            to_batch([Passage(one.id, one.text, one.title, one.metadata or {}) for one in passages]),
            vectors,
            codes,
            Postings.of_passages([(one.terms, one.length) for one in passages]) if self.manifest.lexical else None,
        )
        return self._run(contents, documents, start, fields)

    def merged(self, runs: Sequence[Segment], start: int, fields: FieldTypes) -> Segment:
        """Make one run of the rows of several that are still there; at least one is."""
        kept = [run.alive_rows() for run in runs]
        documents: dict[str, DocumentRows] = {}
        first = 0
        for run, rows in zip(runs, kept, strict=True):
            assert run.documents is not None
            places = np.full(run.shard.count, -1, np.int64)
            places[rows] = np.arange(first, first + len(rows))
            numbers = places.tolist()
            for document, lying in run.documents.items():
                place = numbers[lying.first]
                if place >= 0:  # all rows of a document come and go together, and stay neighbours
                    documents[document] = DocumentRows(place, lying.count, lying.position)
            first += len(rows)
        return self._run(self._joined([run.shard for run in runs], kept, fields), documents, start, fields)

    def _joined(self, shards: Sequence[Shard], kept: Sequence[RowArray], fields: FieldTypes) -> ShardContents:
        """What several runs hold of some of their rows, one run after the other."""
        parts = list(zip(shards, kept, strict=True))
        batches = [batch for shard, rows in parts for batch in shard.batches(rows)]
        vectors = [shard.vectors(rows) for shard, rows in parts]
        postings = [(shard.lexical.postings(), rows) for shard, rows in parts if shard.lexical is not None]
        columns = [(shard.columns, rows) for shard, rows in parts if shard.columns is not None]  # all of them
        (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
        return ShardContents(
            joined,
            np.concatenate([some for some in vectors if some is not None]),  # all of them: a run is flat
            None if self.codec is None else [codes for shard, rows in parts for codes in shard.codes(rows) or ()],
            Postings.joined(postings) if postings else None,
            Columns.joined(columns, fields),
        )

    def _run(
        self, contents: ShardContents, documents: Mapping[str, DocumentRows], start: int, fields: FieldTypes
    ) -> Segment:
        if contents.passages.num_rows >= FILE_ROWS:
            shard, size = self._in_files(contents, fields)
        else:
            lexical, weight = self.manifest.lexical, dense_weight_of(self.manifest.encoder)
            shard = shard_in_memory(contents, fields, lexical, self.codec, self.threads, weight)
            size = contents.nbytes
        return Segment(shard, start, None, documents, size)

    def _in_files(self, contents: ShardContents, fields: FieldTypes) -> tuple[Shard, int]:
        """Write a shard, open it, and remove its files, which stay mapped; returns it and how many bytes they have."""
        manifest, batch = self.manifest, contents.passages
        if contents.codes is not None:
            batch = batch.append_column(COLUMN, column_of(contents.codes))
        with temporary_folder("run-") as root:
            folder = root / layout.shard_dir(manifest.version, self.shard)
            entry = write_shard(
                folder,
                [(batch, contents.vectors)],
                shard=self.shard,
                dim=manifest.dim,
                kind="flat",
                trained=None,
                threads=self.threads,
                fields=fields,
                lexical=None if contents.postings is None else PostingsWriter(folder, contents.postings),
                tokens=None if self.codec is None else TokenWriter(folder, self.codec),
            )
            flat = VectorIndexInfo(kind="flat", search="", recall_at_10=None, latency_ms=None)
            own = manifest.model_copy(update={"index": flat, "shards": [entry], "fields": dict(fields)})
            shard = Shard.open(Storage(str(root)), own, self.shard, cache=None, threads=self.threads, verify=False)
        shard.allow_new_fields()
        return shard, sum(file.bytes for file in entry.files)


def size_class(rows: int) -> int:
    """Number the size class of a run of so many rows, from 0."""
    number, end = 0, CLASS_ROWS
    while rows >= end:
        number, end = number + 1, end * CLASS_FACTOR
    return number


def codec_of(path: Path, bits: int) -> Codec:
    """The reduction that a shard keeps in a file."""
    return Codec.from_projection(load_array(path), bits)


def runs_to_merge(runs: Sequence[Segment]) -> list[Segment]:
    """Runs that become one: some of which nothing is left, or all of one size class if it has several."""
    empty = [run for run in runs if not run.alive_count]
    if empty:
        return empty
    classes: dict[int, list[Segment]] = {}
    for run in runs:
        classes.setdefault(run.size_class, []).append(run)
    return next((alike for _, alike in sorted(classes.items()) if len(alike) > 1), [])
