"""Terms that lie sorted in a file, found by bisection."""

from bisect import bisect_left

import pyarrow as pa


class SortedTerms:
    """Finds terms in an array, which stays in its file: the mapped bytes are compared, without an object of Arrow each.

    Args:
        terms: Of type `large_string`, ascending by UTF-8 bytes, without nulls.
    """

    __slots__ = ("_data", "_offsets")

    def __init__(self, terms: pa.LargeStringArray) -> None:
        _, offsets, data = terms.buffers()
        self._offsets = memoryview(bytes(8)).cast("q")
        if len(terms):  # an empty array may lack the buffer
            self._offsets = memoryview(offsets).cast("B").cast("q")[terms.offset : terms.offset + len(terms) + 1]
        self._data = memoryview(data or b"")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, place: int) -> bytes:
        """Return the UTF-8 bytes of the term at a place."""
        return bytes(self._data[self._offsets[place] : self._offsets[place + 1]])

    def place(self, term: str) -> int | None:
        """Return where a term is; None if it is not there."""
        wanted = term.encode("utf-8", "surrogatepass")
        place = bisect_left(self, wanted)
        return place if place < len(self) and self[place] == wanted else None
