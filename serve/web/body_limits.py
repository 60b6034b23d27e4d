"""How large a request's body may be, by what it asks for."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope


def _no_other(scope: Scope) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Most bytes of a body.

    usual: of any request. other: gives those of a request that may have a larger one; it is asked only where one has.
    """

    usual: int
    other: Callable[[Scope], int] = _no_other

    def exceeded(self, size: int, scope: Scope) -> int | None:
        """Return the limit that a body of a size is beyond; None if it is not."""
        if size <= self.usual:
            return None
        most = self.of(scope)
        return most if size > most else None

    def of(self, scope: Scope) -> int:
        """Return the limit of a request."""
        return max(self.usual, self.other(scope))
