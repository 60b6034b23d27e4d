"""How often terms occur in the passages of an entry of the log, as it lies there: numbers into a list of terms.

An entry of a hundred passages names a few hundred different terms some thousand times. What reads all of them at once
takes the numbers (`shoal.lexical`); a passage alone is a mapping like any other.
"""

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class EntryTerms:
    """The terms of all rows of an entry, one row after the other.

    names: the different terms.
    numbers: int32 (n,), places in the names. counts: uint32 (n,), how often each occurs.
    """

    names: Sequence[str]
    numbers: NDArray[np.int32]
    counts: NDArray[np.uint32]


class TermCounts(Mapping[str, int]):
    """How often terms occur in one row of an entry.

    Args:
        entry: The terms of all of its rows.
        first, end: Which of them are those of this row; each term is there once.
    """

    __slots__ = ("end", "entry", "first")

    def __init__(self, entry: EntryTerms, first: int, end: int) -> None:
        self.entry = entry
        self.first = first
        self.end = end

    @property
    def numbers(self) -> NDArray[np.int32]:
        """Places of the terms in the names of the entry, int32 (n,)."""
        return self.entry.numbers[self.first : self.end]

    @property
    def counts(self) -> NDArray[np.uint32]:
        """How often each occurs, uint32 (n,)."""
        return self.entry.counts[self.first : self.end]

    def is_followed_by(self, other: "TermCounts") -> bool:
        """Whether the terms of another row begin where those of this one end."""
        return self.entry is other.entry and self.end == other.first

    def __getitem__(self, term: str) -> int:
        return self._as_dict()[term]

    def __iter__(self) -> Iterator[str]:
        return map(self.entry.names.__getitem__, self.numbers.tolist())

    def __len__(self) -> int:
        return self.end - self.first

    def items(self) -> ItemsView[str, int]:
        """Return the terms with their counts."""
        return self._as_dict().items()

    def values(self) -> ValuesView[int]:
        """Return the counts, in the order of the terms."""
        return self._as_dict().values()

    def __repr__(self) -> str:
        return repr(self._as_dict())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._as_dict(),)

    def _as_dict(self) -> dict[str, int]:
        return dict(zip(self, self.counts.tolist(), strict=True))
