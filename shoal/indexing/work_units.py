"""What a build does piece by piece: units of its input, and of what it carries over."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

Origin = Literal["source", "base", "log"]
"""Where the passages of a unit come from."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    number: its place in the plan, counted from 0; names its files in staging.
    file: index in `Plan.files` (of the first file, when the unit is a group of text files).
    start, stop: half-open range: bytes of a plain file, rows of Parquet, one piece of a spooled file, or text files.
    origin: whether it is a part of the input; others are those of `Carried.units`.
    """

    number: int
    file: int
    start: int
    stop: int
    origin: Origin = "source"


class ComputedUnits(Sequence[Unit], ABC):
    """Units that are made when they are asked for, so that a plan of millions takes no memory for them."""

    @abstractmethod
    def unit(self, number: int) -> Unit:
        """Make the unit of a number from 0 to len - 1."""

    @overload
    def __getitem__(self, number: int) -> Unit: ...
    @overload
    def __getitem__(self, number: slice) -> list[Unit]: ...
    def __getitem__(self, number: int | slice) -> Unit | list[Unit]:
        if isinstance(number, slice):
            return [self.unit(each) for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"unit {number} of {len(self)}")
        return self.unit(number % len(self))


class Behind(ComputedUnits):
    """Units of a source behind others, numbered on from theirs."""

    def __init__(self, carried: list[Unit], source: Sequence[Unit]) -> None:
        self._carried = carried
        self._source = source

    def __len__(self) -> int:
        return len(self._carried) + len(self._source)

    def unit(self, number: int) -> Unit:
        """Make the unit of a number from 0 to len - 1."""
        before = len(self._carried)
        return self._carried[number] if number < before else replace(self._source[number - before], number=number)
