"""Arrays of Arrow and NumPy, one as the other."""

import numpy as np
import pyarrow as pa
import pytest

from shoal.shard.arrays import from_numbers, to_mask, to_numbers


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize("offset", [0, 1, 3, 8, 13])
def test_arrays_are_what_pyarrow_makes_of_them(count: int, offset: int) -> None:
    rng = np.random.default_rng(count)
    numbers = rng.integers(-9, 9, count + offset)
    flags = rng.random(count + offset) < 0.5
    assert from_numbers(numbers[offset:]).equals(pa.array(numbers[offset:]))
    assert from_numbers(numbers[::2]).equals(pa.array(numbers[::2]))
    for kind in (np.int64, np.uint64, np.int32):
        expected = numbers.astype(kind)
        found = to_numbers(pa.array(expected).slice(offset))
        assert found.dtype == kind
        assert found.tolist() == expected[offset:].tolist()
    mask = to_mask(pa.array(flags).slice(offset))
    assert mask.dtype == np.bool_
    assert mask.tolist() == flags[offset:].tolist()
