"""What it takes to refuse a body in which a name stands twice."""

import pytest
from starlette.exceptions import HTTPException

from serve.web.json_body import unique_names


class Compared(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Compared.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_search_for_a_name_that_stands_twice_is_linear() -> None:
    """Of a hundred thousand names, which fit into one body, only the last stands twice."""
    names = [Compared(number) for number in [*range(2000), 1999]]
    Compared.comparisons = 0
    with pytest.raises(HTTPException, match="'1999' twice"):
        unique_names([(name, None) for name in names])
    assert Compared.comparisons < 2 * len(names)
