"""Embed: one unit of input becomes one file of passages and vectors grouped by shard, and a commit record."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from shoal.encoders import LengthCounter, TextVectors
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.index_root.digests import Digests, document_digests
from shoal.index_root.storage import Storage
from shoal.indexing.base import Base, Copies
from shoal.indexing.commits import RejectedRecord, UnitCommit, read_unit_commit
from shoal.indexing.last_writes import LastWrites
from shoal.indexing.plan import Plan
from shoal.indexing.unit_input import read_unit
from shoal.indexing.units import KNOWN, REUSED, write_unit
from shoal.indexing.work_units import Unit
from shoal.late.codec import Codec, Codes
from shoal.late.writer import column_of
from shoal.metadata import Observed
from shoal.records import FloatArray, Passage, RowArray, TermWeights
from shoal.shard.passages import PASSAGE_SCHEMA, Passages, to_batch
from shoal.shard.positions import POSITION
from shoal.sources import Rejected
from shoal.sparse.column import COLUMN as TERMS
from shoal.sparse.column import column_of as terms_column_of


class PassageEncoder(Protocol):
    """The part of an encoder that a build needs."""

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        ...


@runtime_checkable
class PassageTokenEncoder(PassageEncoder, Protocol):
    """The part of an encoder that a build needs which keeps token vectors."""

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their tokens, in input order."""
        ...


@runtime_checkable
class PassageTermEncoder(PassageEncoder, Protocol):
    """The part of an encoder that a build needs whose index is searched by learned terms too."""

    def encode_passage_terms(self, texts: Sequence[str]) -> list[TermWeights]:
        """Return the terms of passages, in input order."""
        ...


TOKEN_BYTES = 128 * 2**20
"""Most bytes of the token vectors that are held at once, unless one passage alone has more."""


def embed_unit(
    plan: Plan,
    unit: Unit,
    encoder: PassageEncoder,
    storage: Storage,
    codec: Codec | None = None,
    base: Base | None = None,
    written: LastWrites | None = None,
) -> UnitCommit:
    """Embed one unit and commit it; a unit that is committed already is only looked up.

    The result depends on the plan, its base and the encoder alone. Raises what a `PassageReader` raises too.

    Args:
        plan, unit: What is built, and one of its units.
        encoder: Encodes the texts; it is not asked for vectors that the source brings or the base holds.
        storage: The index root.
        codec: Rounds the token vectors, for a plan that stores them. A unit that another codec has rounded is embedded
            anew: two runs of one build may have learned one each.
        base: The version that the plan copies from, if it does.
        written: What was written to the index: records of these documents are left out of the source.

    Raises:
        InvalidArgument: Token vectors are wanted of an encoder that has none.
        Conflict: The base was removed meanwhile.
    """
    digest = None if codec is None else codec.digest
    if commit := _committed(plan, unit, storage, digest):
        return commit
    full = _full_texts(encoder)
    reader = read_unit(plan, unit, storage)
    records, passages, rejected = _read_all(reader)
    read, (records, passages) = len(passages), _unwritten(plan, records, passages, written)
    documents = document_digests(plan.document(passage.id) for passage in passages)
    copies = None if base is None else base.look_up(documents, passages)
    vectors, tokens, reason = vectors_of(plan, passages, encoder, codec, copies)
    finite = np.isfinite(vectors).all(axis=1)
    rejected += [Rejected(records[row], reason, passages[row].id) for row in np.flatnonzero(~finite)]
    kept = np.flatnonzero(finite)
    order, rows = grouped_by_shard(documents, plan.shards, kept)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        path = folder / "unit.arrow"
        batch = with_terms(plan, _to_batch(plan, passages, copies).take(pa.array(order)), encoder)
        column = None if tokens is None else column_of([tokens[row] for row in order])
        write_unit(path, batch, np.asarray(records, np.int64)[order], vectors[order], rows, column, digest)
        storage.put(path, layout.unit_data(plan.hash, unit.number))
    commit = UnitCommit(
        unit=unit.number,
        lines=reader.lines,
        rows=rows.tolist(),
        rejected=_rejected_records(rejected),
        fields=_observed(passages, kept).kinds,
        codec=digest,
        left_out=dict(reader.left_out),
        documents=len({records[row] for row in kept.tolist()}),
        full=_full_texts(encoder) - full,
        superseded=read - len(passages),
    )
    storage.write(layout.unit_commit(plan.hash, unit.number), commit.model_dump_json().encode())
    return commit


def _read_all(
    items: Iterable[tuple[int, Passage] | Rejected],
) -> tuple[list[int], list[Passage], list[Rejected]]:
    """Numbers of the good records of a unit, their passages, and the rejected records, all in input order."""
    records: list[int] = []
    passages: list[Passage] = []
    rejected: list[Rejected] = []
    for item in items:
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            records.append(item[0])
            passages.append(item[1])
    return records, passages, rejected


def _committed(plan: Plan, unit: Unit, storage: Storage, codec: str | None) -> UnitCommit | None:
    """The commit record of a unit whose token vectors this codec has rounded; None if it is not there as a whole."""
    files = layout.unit_commit(plan.hash, unit.number), layout.unit_data(plan.hash, unit.number)
    if not all(storage.exists(path) for path in files):
        return None
    commit = read_unit_commit(storage, plan.hash, unit.number)
    return commit if commit.codec == codec else None


def _unwritten(
    plan: Plan, records: list[int], passages: list[Passage], written: LastWrites | None
) -> tuple[list[int], list[Passage]]:
    """The records of a unit, and their passages, that nobody has written to the index as well."""
    if written is None:
        return records, passages
    kept = [place for place, passage in enumerate(passages) if plan.document(passage.id) not in written.places]
    return [records[place] for place in kept], [passages[place] for place in kept]


def grouped_by_shard(documents: Digests, count: int, kept: RowArray) -> tuple[RowArray, RowArray]:
    """Positions of the passages that are kept, int64 (k,), shard by shard, and how many each shard has, (count,)."""
    shards = (documents % np.uint64(count)).astype(np.int64)
    # Stable: within a shard the input order stays, and with it which of several equal ids is the first.
    order = kept[np.argsort(shards[kept], kind="stable")]
    return order, np.bincount(shards[kept], minlength=count)


def _to_batch(plan: Plan, passages: Sequence[Passage], copies: Copies | None) -> pa.RecordBatch:
    """The passages, with what they have to do with the base if there is one, and with the log if that is read."""
    batch = to_batch(passages)
    columns, fields = list(batch.columns), list(batch.schema)
    if copies is not None:
        columns += [pa.array(copies.known), pa.array(copies.copied)]
        fields += [KNOWN, REUSED]
    if plan.carried is not None:
        columns.append(pa.array(np.zeros(len(passages), np.int64)))
        fields.append(POSITION)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def with_terms(plan: Plan, batch: pa.RecordBatch, encoder: PassageEncoder | None) -> pa.RecordBatch:
    """Add the learned terms of passages to a batch that begins with the columns of PASSAGE_SCHEMA, if the plan has any.

    They are always computed anew: a shard holds them by terms, not by passages.
    """
    if plan.encoder.sparse is None:
        return batch
    if not isinstance(encoder, PassageTermEncoder):
        raise ValueError("the plan has a sparse encoder, and none is at hand")
    texts = [passage.content for passage in Passages.of_batch(batch.select(PASSAGE_SCHEMA.names)).all()]
    column = terms_column_of(encoder.encode_passage_terms(texts))
    return pa.RecordBatch.from_arrays([*batch.columns, column], schema=pa.schema([*batch.schema, TERMS]))


def _observed(passages: Sequence[Passage], kept: RowArray) -> Observed:
    """What types the metadata fields of the passages that are kept have."""
    observed = Observed()
    for row in kept:
        observed.see(passages[row].metadata)
    return observed


def vectors_of(
    plan: Plan, passages: Sequence[Passage], encoder: PassageEncoder, codec: Codec | None, copies: Copies | None
) -> tuple[FloatArray, list[Codes] | None, str]:
    """Make vectors of passages, float32 (n, dim), codes of their tokens if they are kept; say why one is not finite.

    Those that a base has are copied, `copies`; the others are encoded.
    """
    reason = "text: its vector is not finite; check the encoder and its dtype"
    if plan.source.vectors_field is not None:
        field = plan.source.vectors_field
        reason = f"the vector field {field!r} is zero or holds a number that is not finite"
        return _normalised(passages, plan.encoder.dim), None, reason
    if copies is None:
        return *_encoded(plan, [passage.content for passage in passages], encoder, codec), reason
    vectors = np.empty((len(passages), plan.encoder.dim), np.float32)
    vectors[copies.places] = copies.vectors
    codes = dict(zip(copies.places.tolist(), copies.codes, strict=False))
    rest = np.flatnonzero(~copies.copied)
    if len(rest):
        texts = [passages[place].content for place in rest.tolist()]
        vectors[rest], tokens = _encoded(plan, texts, encoder, codec)
        codes.update(zip(rest.tolist(), tokens or (), strict=False))
    return vectors, None if codec is None else [codes[place] for place in range(len(passages))], reason


def _encoded(
    plan: Plan, texts: Sequence[str], encoder: PassageEncoder, codec: Codec | None
) -> tuple[FloatArray, list[Codes] | None]:
    """Vectors of texts, float32 (n, dim), and codes of their tokens if these are kept."""
    if codec is None:
        return encoder.encode_passages(texts), None
    return encode_with_tokens(encoder, texts, plan.encoder, codec)


def _full_texts(encoder: PassageEncoder) -> int:
    """Texts that an encoder has read to its limit so far; 0 for one that does not count."""
    return encoder.full_texts if isinstance(encoder, LengthCounter) else 0


def _rejected_records(rejected: Sequence[Rejected]) -> list[RejectedRecord]:
    """What the commit record of a unit says of its rejected records, in input order."""
    in_order = sorted(rejected, key=lambda bad: bad.record)
    return [RejectedRecord(record=bad.record, reason=bad.reason, id=bad.id, records=bad.records) for bad in in_order]


def encode_with_tokens(
    encoder: PassageEncoder, texts: Sequence[str], fingerprint: Fingerprint, codec: Codec
) -> tuple[FloatArray, list[Codes]]:
    """Encode passages in one pass: float32 (n, dim) and the codes of their tokens, uint8 (t, width) each."""
    vectors = np.empty((len(texts), fingerprint.dim), np.float32)
    codes: dict[int, Codes] = {}
    hidden = codec.axes.shape[1]
    for row, encoded in encode_tokens(require_tokens(encoder), texts, fingerprint.token_length, hidden):
        vectors[row] = encoded.vector
        codes[row] = codec.encode(encoded.tokens)
    return vectors, [codes[row] for row in range(len(texts))]


def encode_tokens(
    encoder: PassageTokenEncoder, texts: Sequence[str], max_length: int, hidden: int
) -> Iterator[tuple[int, TextVectors]]:
    """Encode passages with their tokens, the longest first, and give the place of each with what became of it.

    Memory: TOKEN_BYTES, and one batch of the encoder.

    Args:
        max_length: Tokens of a text that get a vector each, at most.
        hidden: Dimensions of a token vector.
    """

    def encoded(rows: Sequence[int]) -> Iterator[tuple[int, TextVectors]]:
        return zip(rows, encoder.encode_passage_tokens([texts[row] for row in rows]), strict=True)

    rows: list[int] = []
    held = 0
    # Texts of similar length share a chunk, as they share a batch of the encoder.
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
        # No token is shorter than a byte of its text; texts of none have special tokens.
        size = 4 * hidden * min(max_length, len(texts[row].encode("utf-8", "replace")) + 2)
        if rows and held + size > TOKEN_BYTES:
            yield from encoded(rows)
            rows, held = [], 0
        rows.append(row)
        held += size
    if rows:
        yield from encoded(rows)


def require_tokens(encoder: PassageEncoder) -> PassageTokenEncoder:
    """Return the encoder if it gives token vectors. Raises InvalidArgument."""
    if not isinstance(encoder, PassageTokenEncoder):
        raise InvalidArgument(
            "late_interaction=stored needs token vectors, which this encoder does not give; leave it out, or take "
            "another encoder",
            param="late_interaction",
        )
    return encoder


def _normalised(passages: Sequence[Passage], dim: int) -> FloatArray:
    """The vectors that passages brought along, float32 (n, dim), normalised; not finite where that cannot be done."""
    given = [passage.vector for passage in passages if passage.vector is not None]
    vectors = np.array(given, np.float64).reshape(len(passages), dim)  # squares of large numbers are beyond float32
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
