"""Documents as they are written into an index, with all that its shards hold of them, and their Arrow columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.index_root.arrow_files import checked, uncompressed
from shoal.index_root.digests import document_digests
from shoal.index_root.term_counts import EntryTerms, TermCounts
from shoal.records import FloatArray

_RETIRE, _PASSAGE = 0, 1
"""Values of the column `op`: what leaves the statistics with the earlier state of a document; one of its passages."""

_TERM = pa.dictionary(pa.int32(), pa.large_string())
"""Type of a term: of all that occur in an entry, the text lies there once."""
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("op", pa.int8(), nullable=False),
        pa.field("document", pa.large_string(), nullable=False),
        pa.field("digest", pa.uint64(), nullable=False),
        pa.field("id", pa.large_string()),
        pa.field("text", pa.large_string()),
        pa.field("title", pa.large_string()),
        pa.field("metadata", pa.large_string()),
        pa.field("vector", pa.large_list(pa.field("item", pa.float32(), nullable=False))),
        pa.field("tokens", pa.large_binary()),
        pa.field("terms", pa.large_list(pa.field("item", _TERM, nullable=False)), nullable=False),
        pa.field("counts", pa.large_list(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
        pa.field("passages", pa.uint32(), nullable=False),
    ]
)
"""Columns of an entry: of each document a row that retires its earlier state, then its passages."""


@dataclass(frozen=True, slots=True, eq=False)
class WrittenPassage:
    """A passage with all that a shard holds of it.

    vector: float32 (dim,).
    codes: token vectors, reduced and rounded, uint8 (tokens, width); None where the index stores none.
    terms: how often each term occurs in it.
    length: its terms, counted as often as they occur.
    """

    id: str
    text: str
    title: str | None
    metadata: dict[str, Any] | None
    vector: FloatArray
    codes: NDArray[np.uint8] | None
    terms: Mapping[str, int]
    length: int

    @property
    def nbytes(self) -> int:
        """What it takes in memory or in an entry, about; metadata may be most of it."""
        codes = 0 if self.codes is None else self.codes.nbytes
        metadata = sum(len(name) + _length(value) for name, value in (self.metadata or {}).items())
        return 64 * len(self.terms) + self.vector.nbytes + 2 * (len(self.text) + metadata) + codes


def _length(value: Any) -> int:
    """Characters of a value of metadata, about."""
    if isinstance(value, list):
        return 8 + sum(8 + len(item) for item in value)
    return 8 + (len(value) if isinstance(value, str) else 0)


@dataclass(frozen=True, slots=True)
class RetiredState:
    """What leaves the statistics of the corpus with the earlier state of a document; nothing for a new one.

    terms: in how many of its passages each term occurs.
    length: sum of the lengths of its passages.
    """

    terms: Mapping[str, int]
    length: int
    passages: int


@dataclass(frozen=True, slots=True, eq=False)
class DocumentWrite:
    """A document as it is from now on; one without passages is deleted. `document` is the id of the record."""

    document: str
    retired: RetiredState
    passages: tuple[WrittenPassage, ...]

    @property
    def digest(self) -> np.uint64:
        """Digest of the record's id: it decides the shard (`shoal.index_root.digests`)."""
        return np.uint64(document_digests([self.document])[0])


def to_batch(documents: Sequence[DocumentWrite]) -> tuple[pa.RecordBatch, int, int]:
    """Return documents as a record batch of DOCUMENT_SCHEMA, the numbers of a vector and the bytes of a token's codes.

    Either is 0 where there are none. Raises ValueError where vectors or codes do not have one shape.
    """
    rows: list[WrittenPassage | RetiredState] = []
    for document in documents:
        rows.append(document.retired)
        rows.extend(document.passages)
    passages = [row if isinstance(row, WrittenPassage) else None for row in rows]
    digests = np.repeat(
        document_digests(document.document for document in documents), [1 + len(d.passages) for d in documents]
    )
    dim, vectors = _vectors(passages)
    width, tokens = _tokens(passages)
    terms = [row.terms for row in rows]
    names = pa.array([term for row in terms for term in row], pa.large_string()).dictionary_encode()
    columns = [
        [_RETIRE if passage is None else _PASSAGE for passage in passages],
        [document.document for document in documents for _ in range(1 + len(document.passages))],
        digests,
        [None if passage is None else passage.id for passage in passages],
        [None if passage is None else passage.text for passage in passages],
        [None if passage is None else passage.title for passage in passages],
        [_to_json(passage) for passage in passages],
        vectors,
        tokens,
        _lists(names, terms, "terms"),
        _lists(pa.array([count for row in terms for count in row.values()], pa.uint32()), terms, "counts"),
        [row.length for row in rows],
        [row.passages if isinstance(row, RetiredState) else 0 for row in rows],
    ]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, DOCUMENT_SCHEMA, strict=True)
    ]
    return checked(pa.RecordBatch.from_arrays(arrays, schema=DOCUMENT_SCHEMA)), dim, width


def from_batch(batch: pa.RecordBatch, buffer: pa.Buffer, dim: int, width: int) -> tuple[DocumentWrite, ...]:
    """Read documents out of a record batch of DOCUMENT_SCHEMA that lies in `buffer`, as if a stranger had written it.

    Raises ValueError, or what Arrow raises, for one that `to_batch` does not make.
    """
    uncompressed(checked(batch), buffer)
    # Arrow does not count the dictionary among the buffers of a batch.
    dictionary = pa.record_batch([batch.column("terms").values.dictionary], ["term"])
    terms = _terms(batch, uncompressed(checked(dictionary), buffer).column("term").to_pylist())
    return tuple(_documents(batch, dim, width, terms))


def _to_json(passage: WrittenPassage | None) -> str | None:
    if passage is None or passage.metadata is None:
        return None
    return json.dumps(passage.metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _vectors(passages: Sequence[WrittenPassage | None]) -> tuple[int, pa.Array]:
    """Return the dimension, 0 where there is no vector, and the column. Raises ValueError for several dimensions."""
    vectors = [passage.vector for passage in passages if passage is not None]
    if shapes := {vector.shape for vector in vectors} - {(vectors[0].size,) if vectors else ()}:
        raise ValueError(f"vectors of an entry have one dimension; there are others of shape {shapes.pop()}")
    dim = vectors[0].size if vectors else 0
    flat = np.concatenate(vectors, dtype=np.float32) if vectors else np.zeros(0, np.float32)
    counts = [0 if passage is None else dim for passage in passages]
    absent = pa.array([passage is None for passage in passages], pa.bool_())
    column = DOCUMENT_SCHEMA.field("vector").type
    return dim, pa.LargeListArray.from_arrays(_offsets(counts), pa.array(flat), type=column, mask=absent)


def _tokens(passages: Sequence[WrittenPassage | None]) -> tuple[int, pa.Array]:
    """Return the bytes of a token's codes, 0 where there are none, and the column. Raises ValueError for several."""
    codes = [None if passage is None else passage.codes for passage in passages]
    widths = {code.shape[1:] for code in codes if code is not None}
    if len(widths) > 1 or any(len(width) != 1 for width in widths):
        raise ValueError(f"token codes of an entry have one width, not the shapes {sorted(widths)}")
    if any(code is not None and code.dtype != np.uint8 for code in codes):
        raise ValueError("token codes are uint8")
    column = pa.array([None if code is None else code.tobytes() for code in codes], pa.large_binary())
    return widths.pop()[0] if widths else 0, column


def _lists(flat: pa.Array, terms: Sequence[Mapping[str, int]], column: str) -> pa.Array:
    return pa.LargeListArray.from_arrays(
        _offsets([len(row) for row in terms]), flat, type=DOCUMENT_SCHEMA.field(column).type
    )


def _offsets(counts: Sequence[int]) -> pa.Array:
    return pa.array(list(accumulate(counts, initial=0)), pa.int64())


def _documents(
    batch: pa.RecordBatch, dim: int, width: int, terms: Sequence[Mapping[str, int]]
) -> Iterator[DocumentWrite]:
    """Read the rows of an entry. Raises ValueError where they are not documents."""
    ops = batch.column("op").to_numpy()
    firsts = np.flatnonzero(ops == _RETIRE)
    if len(ops) and (not len(firsts) or firsts[0] or not np.isin(ops, (_RETIRE, _PASSAGE)).all()):
        raise ValueError("it does not begin with a document")
    names = batch.column("document").to_pylist()
    if not np.array_equal(document_digests(names), batch.column("digest").to_numpy()):
        raise ValueError("digests are not those of its documents")
    lengths, counts = (batch.column(name).to_pylist() for name in ("length", "passages"))
    passages = _passages(batch, dim, width, terms, lengths)
    for first, end in pairwise([*firsts.tolist(), len(ops)]):
        if any(name != names[first] for name in names[first:end]):
            raise ValueError("a passage lies in another document")
        retired = RetiredState(terms[first], lengths[first], counts[first])
        yield DocumentWrite(names[first], retired, tuple(next(passages) for _ in range(first + 1, end)))


def _passages(
    batch: pa.RecordBatch, dim: int, width: int, terms: Sequence[Mapping[str, int]], lengths: Sequence[int]
) -> Iterator[WrittenPassage]:
    """Read the rows that are passages, in their order. Raises ValueError where one is not whole."""
    rows = np.flatnonzero(batch.column("op").to_numpy() == _PASSAGE).tolist()
    ids, texts, titles, metadata = (batch.column(name).to_pylist() for name in ("id", "text", "title", "metadata"))
    vectors, tokens = _vector_rows(batch, rows, dim), batch.column("tokens")
    has_tokens = tokens.null_count < len(tokens)
    for number, row in enumerate(rows):
        if ids[row] is None or texts[row] is None:
            raise ValueError("a passage has no id or no text")
        fields = None if metadata[row] is None else json.loads(metadata[row])
        if not isinstance(fields, dict | None):
            raise ValueError("the metadata of a passage is no object")
        codes = tokens[row].as_buffer() if has_tokens and tokens[row].is_valid else None
        yield WrittenPassage(
            id=ids[row],
            text=texts[row],
            title=titles[row],
            metadata=fields,
            vector=vectors[number],
            codes=None if codes is None else np.frombuffer(codes, np.uint8).reshape(-1, width).copy(),
            terms=terms[row],
            length=lengths[row],
        )


def _vector_rows(batch: pa.RecordBatch, rows: Sequence[int], dim: int) -> FloatArray:
    """Return the vectors of these rows, float32 (n, dim), in memory of their own."""
    column = batch.column("vector").take(pa.array(rows, pa.int64()))
    if column.null_count or (column.value_lengths().to_numpy() != dim).any() or column.values.null_count:
        raise ValueError(f"a vector does not have {dim} dimensions")
    vectors: FloatArray = column.flatten().to_numpy().reshape(len(rows), dim).copy()
    vectors.flags.writeable = False
    return vectors


def _terms(batch: pa.RecordBatch, dictionary: Sequence[str | None]) -> list[TermCounts]:
    """Return the terms of each row, and how often each occurs."""
    terms, counts = batch.column("terms"), batch.column("counts")
    offsets = terms.offsets.to_numpy()
    if not np.array_equal(counts.offsets.to_numpy(), offsets) or terms.values.null_count or counts.values.null_count:
        raise ValueError("terms and their counts do not belong together")
    names = [name for name in dictionary if name is not None]
    if len(set(names)) < len(dictionary):
        raise ValueError("a term is missing, or stands twice")
    numbers = terms.values.indices.to_numpy()
    # One key for each term of each row.
    keys = (
        np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * max(1, len(names))
        + numbers[offsets[0] : offsets[-1]]
    )
    if len(np.unique(keys)) < len(keys):
        raise ValueError("a term of a passage stands twice")
    entry = EntryTerms(names, numbers.copy(), counts.values.to_numpy().copy())
    return [TermCounts(entry, first, end) for first, end in pairwise(offsets.tolist())]
