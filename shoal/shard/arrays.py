"""Arrays of Arrow as those of NumPy and back, without pandas: pyarrow's own conversions import it, at the first search.

That takes some 0.4 s and 30 MiB in the process of whoever searches. Filters need it for their values, and only they.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.records import RowArray


def from_numbers(numbers: RowArray) -> pa.Int64Array:
    """Return int64 (n,) as an array of Arrow, over the same memory where that is contiguous."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def to_numbers(array: pa.Array) -> NDArray[np.integer]:
    """Return an array of integers without nulls, as (n,) of its type, read-only, over the same memory."""
    kind = np.dtype(str(array.type))
    buffer = array.buffers()[1]
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(buffer, kind, count=len(array), offset=array.offset * kind.itemsize)


def to_mask(array: pa.BooleanArray) -> NDArray[np.bool_]:
    """Return an array of booleans without nulls as bool (n,)."""
    if not len(array):
        return np.empty(0, np.bool_)
    bits = np.frombuffer(array.buffers()[1], np.uint8)
    end = array.offset + len(array)
    return np.unpackbits(bits, count=end, bitorder="little")[array.offset :].view(np.bool_)
