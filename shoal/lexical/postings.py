"""Which passages hold which terms, and how often: the arrays of one shard, made of counted passages or other shards."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.index_root import layout
from shoal.index_root.term_counts import EntryTerms, TermCounts
from shoal.lexical.statistics import TERM
from shoal.records import RowArray

T = TypeVar("T")
_MOST_SHORT = 2**16 - 1
"""The greatest count that two bytes hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The arrays of `lexical/` in FORMAT.md, without scores.

    terms: ascending.
    offsets: int64 (terms + 1,), where the passages of each term begin in the next two.
    rows: (n,), ascending within a term. counts: (n,), how often each holds the term.
    lengths: (passages,), terms of each passage.
    """

    terms: pa.LargeStringArray
    offsets: NDArray[np.int64]
    rows: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    lengths: NDArray[np.integer[Any]]

    @property
    def nbytes(self) -> int:
        """Memory that they take, about."""
        arrays = (self.offsets, self.rows, self.counts, self.lengths)
        return int(self.terms.nbytes) + sum(array.nbytes for array in arrays)

    def short_counts(self) -> NDArray[np.unsignedinteger[Any]]:
        """The counts, in two bytes each where these hold them."""
        wide = self.counts.max(initial=0) > _MOST_SHORT
        return self.counts.astype(np.uint32 if wide else np.uint16, copy=False)

    @classmethod
    def of_passages(cls, passages: Sequence[tuple[Mapping[str, int], int]]) -> "Postings":
        """Make them of passages in the order of their rows: how often terms occur in each, and its length."""
        numbers, spans = TermNumbers(), _spans(terms for terms, _ in passages)
        held = numbers.of(spans)
        names = numbers.names
        order = sorted(range(len(names)), key=names.__getitem__)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return cls._sorted(
            pa.array([names[number] for number in order], TERM.type),
            places[held],
            np.repeat(np.arange(len(passages)), [len(terms) for terms, _ in passages]),
            np.concatenate([np.zeros(0, np.int64), *map(_counts, spans)]),
            np.array([length for _, length in passages], np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple["Postings", RowArray]]) -> "Postings":
        """Join rows of several shards, one shard after the other.

        Args:
            parts: Of each shard, and which of its rows are kept, int64 (n_i,) ascending.
        """
        terms = pc.unique(pa.chunked_array([part.terms for part, _ in parts], TERM.type))
        terms = terms.take(pc.sort_indices(terms))
        held, rows, counts, lengths, start = [], [], [], [], 0
        for part, kept in parts:
            places = np.full(len(part.lengths), -1, np.int64)
            places[kept] = np.arange(start, start + len(kept))
            own = np.repeat(pc.index_in(part.terms, value_set=terms).to_numpy().astype(np.int64), np.diff(part.offsets))
            chosen = places[part.rows] >= 0
            held.append(own[chosen])
            rows.append(places[part.rows][chosen])
            counts.append(part.counts[chosen].astype(np.int64))
            lengths.append(part.lengths[kept].astype(np.int64))
            start += len(kept)
        return cls._sorted(terms, *(np.concatenate(arrays) for arrays in (held, rows, counts, lengths)))

    @classmethod
    def _sorted(
        cls,
        terms: pa.LargeStringArray,
        held: NDArray[np.int64],
        rows: NDArray[np.int64],
        counts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> "Postings":
        """Order different pairs of a term's number, (n,), and a row, (n,), and leave out terms that no row holds."""
        order = np.argsort(held * len(lengths) + rows)
        holding = np.bincount(held, minlength=len(terms))
        used = np.flatnonzero(holding)
        offsets = np.concatenate([[0], np.cumsum(holding[used])]).astype(np.int64)
        return cls(terms.take(pa.array(used)), offsets, rows[order], counts[order], lengths)


class TermNumbers:
    """Numbers terms in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._entries: dict[int, tuple[EntryTerms, NDArray[np.int64]]] = {}

    @property
    def names(self) -> list[str]:
        """The terms, each at its number."""
        return list(self._numbers)

    def of(self, passages: Iterable[Mapping[str, int]]) -> NDArray[np.int64]:
        """Return the numbers of the terms of passages, int64 (n,), one passage after the other."""
        parts = [np.zeros(0, np.int64)]
        for terms in _spans(passages):
            if isinstance(terms, TermCounts):
                parts.append(self._of_entry(terms.entry)[terms.numbers])
            else:
                parts.append(np.array([self._number(term) for term in terms], np.int64))
        return np.concatenate(parts)

    def _of_entry(self, entry: EntryTerms) -> NDArray[np.int64]:
        known = self._entries.get(id(entry))
        if known is None:  # which is kept, so that no other one gets its id
            known = entry, np.array([self._number(term) for term in entry.names], np.int64)
            self._entries[id(entry)] = known
        return known[1]

    def _number(self, term: str) -> int:
        return self._numbers.setdefault(term, len(self._numbers))


def _spans(passages: Iterable[Mapping[str, int]]) -> list[Mapping[str, int]]:
    """Passages, those that follow each other in an entry as if they were one: their terms are only gone through."""
    spans: list[Mapping[str, int]] = []
    for terms in passages:
        last = spans[-1] if spans else None
        if isinstance(terms, TermCounts) and isinstance(last, TermCounts) and last.is_followed_by(terms):
            spans[-1] = TermCounts(last.entry, last.first, terms.end)
        else:
            spans.append(terms)
    return spans


def _counts(terms: Mapping[str, int]) -> NDArray[np.integer[Any]]:
    return terms.counts if isinstance(terms, TermCounts) else np.fromiter(terms.values(), np.int64, len(terms))


class PostingsWriter:
    """Writes the lexical files of a shard whose passages were counted before, with scores of 0.

    Whoever searches such a shard brings statistics of the corpus (`LexicalIndex.current_lists`).
    """

    def __init__(self, folder: Path, postings: Postings) -> None:
        self._folder = folder
        self._postings = postings

    def tee(self, blocks: Iterable[tuple[pa.RecordBatch, T]]) -> Iterator[tuple[pa.RecordBatch, T]]:
        """Hand blocks through, and write the files at the end. Raises ValueError for another number of passages."""
        passages = 0
        for block in blocks:
            passages += block[0].num_rows
            yield block
        if passages != len(self._postings.lengths):
            raise ValueError(f"{len(self._postings.lengths)} passages were counted, {passages} are written")
        self._write()

    def _write(self) -> None:
        made, folder = self._postings, self._folder
        (folder / layout.LEXICAL).mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(folder / layout.LEXICAL_TERMS), pa.schema([TERM])) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([made.terms], schema=pa.schema([TERM])))
        for name, array in (
            (layout.LEXICAL_OFFSETS, made.offsets),
            (layout.LEXICAL_ROWS, made.rows.astype(np.int32)),
            (layout.LEXICAL_SCORES, np.zeros(len(made.rows), np.float32)),
            (layout.LEXICAL_LENGTHS, made.lengths.astype(np.int32)),
            (layout.LEXICAL_COUNTS, made.short_counts()),
        ):
            np.save(folder / name, array)
