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

    @classmethod
    def of_passages(cls, passages: Sequence[tuple[Mapping[str, int], int]]) -> "Postings":
        """Make them of passages in the order of their rows: how often terms occur in each, and its length."""
        numbers = {
            term: number for number, term in enumerate(sorted({term for terms, _ in passages for term in terms}))
        }
        held = [numbers[term] for terms, _ in passages for term in terms]
        counts = [count for terms, _ in passages for count in terms.values()]
        rows = np.repeat(np.arange(len(passages)), [len(terms) for terms, _ in passages])
        return cls._sorted(
            pa.array(list(numbers), TERM.type),
            np.array(held, np.int64),
            rows,
            np.array(counts, np.int64),
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
        """Order pairs of a term's number, (n,), and a row, (n,), and leave out terms that no row holds."""
        order = np.lexsort((rows, held))
        holding = np.bincount(held, minlength=len(terms))
        used = np.flatnonzero(holding)
        offsets = np.concatenate([[0], np.cumsum(holding[used])]).astype(np.int64)
        return cls(terms.take(pa.array(used)), offsets, rows[order], counts[order], lengths)


class PostingsWriter:
    """Writes the lexical files of a shard whose passages were counted before, with scores of 0.

    Whoever searches such a shard brings statistics of the corpus (`LexicalIndex.current_scores`).
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
        wide = made.counts.max(initial=0) > _MOST_SHORT
        for name, array in (
            (layout.LEXICAL_OFFSETS, made.offsets),
            (layout.LEXICAL_ROWS, made.rows.astype(np.int32)),
            (layout.LEXICAL_SCORES, np.zeros(len(made.rows), np.float32)),
            (layout.LEXICAL_LENGTHS, made.lengths.astype(np.int32)),
            (layout.LEXICAL_COUNTS, made.counts.astype(np.uint32 if wide else np.uint16)),
        ):
            np.save(folder / name, array)
