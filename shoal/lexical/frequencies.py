"""How often the passages of one shard hold their terms: what scores are computed from when the corpus has changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.index_root import layout
from shoal.lexical.postings import Postings
from shoal.system.array_files import map_array


@dataclass(frozen=True, slots=True)
class TermFrequencies:
    """Numbers of terms in passages.

    lengths: int32 (passages,), terms of each passage.
    counts: uint16 or uint32 (n,), how often the passage of each place of `rows.npy` holds the term of that place.
    """

    lengths: NDArray[np.int32]
    counts: NDArray[np.unsignedinteger[Any]]

    @classmethod
    def open(cls, paths: Mapping[str, Path]) -> "TermFrequencies":
        """Map the two files of a shard. Raises OSError, EOFError or ValueError for what is no array."""
        return cls(map_array(paths[layout.LEXICAL_LENGTHS]), map_array(paths[layout.LEXICAL_COUNTS]))

    @classmethod
    def of_postings(cls, postings: Postings) -> "TermFrequencies":
        """Those of counted passages, in memory."""
        return cls(postings.lengths.astype(np.int32, copy=False), postings.short_counts())

    def fit(self, passages: int, places: int) -> bool:
        """Whether they are those of so many passages and places. Reads them once."""
        if self.lengths.dtype != np.int32 or self.counts.dtype not in (np.uint16, np.uint32):
            return False
        if (self.lengths.shape, self.counts.shape) != ((passages,), (places,)):
            return False
        return not bool((self.lengths < 0).any() or (self.counts < 1).any())
