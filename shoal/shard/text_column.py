"""A column of texts in Arrow, of which single values are read: a scalar of Arrow's own takes several times as long."""

import pyarrow as pa


class TextColumn:
    """Reads the values of an array of texts from its buffers, which it keeps alive.

    Args:
        array: Of type `string` or `large_string`, whole as `pyarrow.Array.validate(full=True)` checks it.
    """

    __slots__ = ("_data", "_first", "_offsets", "_validity")

    def __init__(self, array: pa.StringArray | pa.LargeStringArray) -> None:
        validity, offsets, data = array.buffers()
        # Not an array of numpy's, each number of which is an object that takes as long as a short text.
        self._offsets = memoryview(offsets or b"").cast("q" if pa.types.is_large_string(array.type) else "i")
        self._data = memoryview(data or b"")
        self._validity = None if validity is None else memoryview(validity)
        self._first: int = array.offset

    def __getitem__(self, row: int) -> str | None:
        """Return the value of a row; None for a missing one."""
        row += self._first
        if self._validity is not None and not self._validity[row >> 3] >> (row & 7) & 1:
            return None
        return str(self._data[self._offsets[row] : self._offsets[row + 1]], "utf-8")

    def size(self, row: int) -> int:
        """Return the bytes of the value of a row, in UTF-8; 0 for a missing one."""
        row += self._first
        size: int = self._offsets[row + 1] - self._offsets[row]
        return size
