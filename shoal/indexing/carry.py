"""Carry: a unit of rows of the base, or of the log, becomes a unit file like one that was embedded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout, versions
from shoal.index_root.digests import document_digests
from shoal.index_root.log_entry import LogEntry, WrittenPassage
from shoal.index_root.storage import Storage
from shoal.indexing.base import Base
from shoal.indexing.commits import UnitCommit, committed_units, read_unit_commit
from shoal.indexing.embed import PassageEncoder, grouped_by_shard, vectors_of, with_terms
from shoal.indexing.last_writes import EntryReader, LastWrites, in_order
from shoal.indexing.plan import Plan
from shoal.indexing.tokens import codec_digest
from shoal.indexing.units import KNOWN, REUSED, write_unit
from shoal.indexing.work_units import Unit
from shoal.late.codec import Codec, Codes
from shoal.late.writer import column_of
from shoal.metadata import Observed
from shoal.records import FloatArray, Passage
from shoal.shard.passages import Passages, to_batch
from shoal.shard.positions import POSITION
from shoal.shard.stored_rows import StoredRows
from shoal.shard.writer import BATCH_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class _Passages:
    """The passages of a unit that count.

    batch: n rows of PASSAGE_SCHEMA. vectors: float32 (n, dim). codes: n, each uint8 (t_i, width); None where none are
    kept. positions: int64 (n,). superseded: passages of the unit that a later write has hidden. copied: bool (n,),
    whether their vectors come from a version.
    """

    batch: pa.RecordBatch
    vectors: FloatArray
    codes: Sequence[Codes] | None
    positions: NDArray[np.int64]
    superseded: int
    copied: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CarriedEmbedder:
    """Embeds anew what a plan carries over from other models.

    encoder: of the plan. codec: rounds the token vectors, if the plan stores them. base: a version of the same models
    that texts are looked up in, if there is one.
    """

    plan: Plan
    encoder: PassageEncoder
    codec: Codec | None
    base: Base | None

    def passages(self, batch: pa.RecordBatch, positions: NDArray[np.int64], superseded: int) -> _Passages:
        """Embed passages. Raises InvalidArgument for one whose vector is not finite."""
        passages = Passages.of_batch(batch).all()
        digests = document_digests(self.plan.document(passage.id) for passage in passages)
        copies = None if self.base is None else self.base.look_up(digests, passages)
        vectors, codes, reason = vectors_of(self.plan, passages, self.encoder, self.codec, copies)
        if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
            raise InvalidArgument(f"passage {passages[bad[0]].id!r}, which was written to the index, has a {reason}")
        copied = np.zeros(len(passages), np.bool_) if copies is None else copies.copied
        return _Passages(batch, vectors, codes, positions, superseded, copied)


class Carrier:
    """Carries the units of a plan over from its base and the log. One call at a time.

    Args:
        plan: Of a build that carries something over; it lies in staging.
        storage: The index root.
        log: Of the same root.
        embedder: Makes the vectors of a plan that embeds anew what it carries over.

    Raises:
        NotFound: The base is gone.
    """

    def __init__(
        self, plan: Plan, storage: Storage, log: EntryReader, embedder: "CarriedEmbedder | None" = None
    ) -> None:
        if plan.carried is None:
            raise ValueError("this plan carries nothing over")
        if plan.carried.embedded and embedder is None:
            raise ValueError("this plan embeds anew what it carries over")
        self._embedder = embedder if plan.carried.embedded else None
        self._encoder_of_terms = None if embedder is None else embedder.encoder
        self._carried = plan.carried
        self._plan = plan
        self._storage = storage
        self._log = log
        self._base = versions.read_manifest(storage, plan.carried.version)
        self._dim = plan.encoder.dim
        self._last = LastWrites.read(storage, plan.hash)
        self._codec = codec_digest(plan, storage)
        self._encoder = plan.encoder.digest
        self._rows: StoredRows | None = None
        self._shard = -1

    def carry(self, unit: Unit) -> UnitCommit:
        """Carry one unit over and commit it; one that is committed already is only looked up.

        Raises CorruptIndex for an entry that is gone, or whose vectors another encoder or codec has made.
        """
        plan, storage = self._plan, self._storage
        files = layout.unit_commit(plan.hash, unit.number), layout.unit_data(plan.hash, unit.number)
        if all(storage.exists(path) for path in files):
            return read_unit_commit(storage, plan.hash, unit.number)
        passages = self._from_base(unit) if unit.origin == "base" else self._from_log(unit)
        documents = [plan.document(passage_id) for passage_id in passages.batch.column("id").to_pylist()]
        everything = np.arange(len(documents))
        order, rows = grouped_by_shard(document_digests(documents), plan.shards, everything)
        changes = np.array([before != now for before, now in zip(["", *documents], documents, strict=False)], np.int64)
        records = np.cumsum(changes)  # pieces of a text share the number of their record
        with storage.scratch(layout.scratch(plan.hash)) as folder:
            path = folder / "unit.arrow"
            column = None if passages.codes is None else column_of([passages.codes[row] for row in order.tolist()])
            batch = _with_origin(passages, unit.origin == "base").take(pa.array(order))
            batch = with_terms(plan, batch, self._encoder_of_terms)
            write_unit(path, batch, records[order], passages.vectors[order], rows, column, self._codec)
            storage.put(path, layout.unit_data(plan.hash, unit.number))
        commit = UnitCommit(
            unit=unit.number,
            lines=0,
            rows=rows.tolist(),
            rejected=[],
            fields=_observed(passages.batch).kinds,
            codec=self._codec,
            documents=int(changes.sum()),
            superseded=passages.superseded,
        )
        storage.write(layout.unit_commit(plan.hash, unit.number), commit.model_dump_json().encode())
        return commit

    def _from_base(self, unit: Unit) -> _Passages:
        """Rows of a shard whose documents the log has not written."""
        shard = self._carried.shard(unit.file)
        if self._rows is None or self._shard != shard:
            self._rows, self._shard = StoredRows(self._storage, self._base, shard), shard
        batch = self._rows.batch(unit.start // BATCH_ROWS)
        documents = map(self._plan.document, batch.column("id").to_pylist())
        hidden = np.array([self._last.is_written_since(document) for document in documents], np.bool_)
        wanted = np.ones(batch.num_rows, np.bool_)
        if self._carried.live_only:
            wanted = self._rows.positions(np.arange(unit.start, unit.stop)) > 0
        kept = np.flatnonzero(wanted & ~hidden)
        rows = unit.start + kept
        taken, positions, superseded = (
            batch.take(pa.array(kept)),
            self._rows.positions(rows),
            int((wanted & hidden).sum()),
        )
        if self._embedder is not None:
            return self._embedder.passages(taken, positions, superseded)
        return _Passages(
            batch=taken,
            vectors=self._rows.vectors(rows) if len(rows) else np.empty((0, self._dim), np.float32),
            codes=None if self._codec is None else self._rows.codes(rows) if len(rows) else [],
            positions=positions,
            superseded=superseded,
            copied=np.ones(len(rows), np.bool_),
        )

    def _from_log(self, unit: Unit) -> _Passages:
        """Passages of the last writes of their documents."""
        passages: list[WrittenPassage] = []
        positions: list[int] = []
        superseded = 0
        for entry in in_order(self._log, unit.start - 1, unit.stop - 1):
            if self._embedder is None:
                self._check(entry)
            for number, write in enumerate(entry.documents):
                if self._last.is_last(write.document, entry.position, number):
                    passages += write.passages
                    positions += [entry.position] * len(write.passages)
                else:
                    superseded += len(write.passages)
        batch = to_batch([Passage(p.id, p.text, p.title, p.metadata or {}) for p in passages])
        if self._embedder is not None:
            return self._embedder.passages(batch, np.array(positions, np.int64), superseded)
        vectors = [passage.vector for passage in passages]
        codes = [passage.codes for passage in passages if passage.codes is not None]
        if self._codec is not None and len(codes) < len(passages):
            raise CorruptIndex(f"entries of the log behind position {unit.start - 1} lack the codes of their tokens")
        return _Passages(
            batch=batch,
            vectors=np.stack(vectors) if vectors else np.empty((0, self._dim), np.float32),
            codes=None if self._codec is None else codes,
            positions=np.array(positions, np.int64),
            superseded=superseded,
            copied=np.zeros(len(passages), np.bool_),
        )

    def _check(self, entry: LogEntry) -> None:
        """Raise CorruptIndex for an entry whose vectors or codes cannot lie beside those of the base."""
        if entry.encoder != self._encoder or entry.codec != self._codec:
            what = "vectors" if entry.encoder != self._encoder else "codes of tokens"
            raise CorruptIndex(
                f"the {what} of entry {entry.position} of the log were not made as those of {self._base.version}; "
                "build the source again, which embeds it anew, or activate the version that was served when it was "
                "written"
            )


def carry_units(plan: Plan, storage: Storage, log: EntryReader) -> list[UnitCommit]:
    """Carry all units of a plan over that are not committed yet; the commits of all of them."""
    done = set(committed_units(storage, plan.hash))
    carrier = Carrier(plan, storage, log)
    return [
        read_unit_commit(storage, plan.hash, unit.number) if unit.number in done else carrier.carry(unit)
        for unit in plan.units
        if unit.origin != "source"
    ]


def _with_origin(passages: _Passages, is_base: bool) -> pa.RecordBatch:
    """The passages with what they have to do with the base and with the log."""
    batch = passages.batch
    known = pa.array(np.full(batch.num_rows, is_base))
    columns = [*batch.columns, known, pa.array(passages.copied), pa.array(passages.positions)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*batch.schema, KNOWN, REUSED, POSITION]))


def _observed(batch: pa.RecordBatch) -> Observed:
    """What types the metadata fields of passages have."""
    observed = Observed()
    for text in batch.column("metadata").to_pylist():
        if text is not None:
            observed.see(orjson.loads(text))
    return observed
