"""Batchers in virtual time."""

from collections.abc import Callable
from typing import Any

from shoal.search.batching import Batcher
from shoal.testing.fakes import now


def batcher(handler: Callable[[list[int]], Any], **changes: Any) -> Batcher[int, int]:
    return Batcher(handler, clock=now, **{"max_batch": 4, "max_waiting": 8, **changes})
