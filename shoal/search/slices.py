"""Large requests in slices, between which others get their turn."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from shoal.errors import ShoalError
from shoal.system import tracing

S = TypeVar("S")
T = TypeVar("T")

logger = logging.getLogger(__name__)


async def in_turn(call: Callable[[S], Awaitable[T]], slices: Sequence[S], at_once: int) -> list[T]:
    """Make a call for each slice, so many at once; returns the results in order. The first error gives up the rest."""
    results: dict[int, T] = {}
    waiting = iter(enumerate(slices))

    async def work() -> None:
        for position, part in waiting:
            results[position] = await call(part)

    workers = [asyncio.ensure_future(work()) for _ in range(min(at_once, len(slices)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [results[position] for position in range(len(slices))]


@contextmanager
def failing_as(message: str) -> Iterator[None]:
    """Let the errors of `shoal.errors` pass; log any other, and raise a ShoalError with this message for it."""
    try:
        yield
    except ShoalError:
        raise
    except Exception as error:
        logger.exception("%s", message, extra=tracing.fields())
        raise ShoalError(message) from error
