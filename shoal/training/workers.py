"""The workers of one training, as torch.distributed knows them; without it there is one."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Workers:
    """All workers hold the same weights, take their share of every step and add up their gradients."""

    def __init__(self) -> None:
        self._together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self._together else 0
        self.count = dist.get_world_size() if self._together else 1

    @property
    def first(self) -> bool:
        """Whether this worker is the one that writes and reports."""
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """Return this worker's part of what all have in the same order."""
        return items[self.rank :: self.count]

    def gather(self, items: list[Any]) -> list[Any]:
        """Return what `share` had divided, whole and in order, from what each worker made of its part."""
        if not self._together:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, items)
        longest = max(map(len, parts))
        return [part[row] for row in range(longest) for part in parts if row < len(part)]

    def add_up(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by the sum over all workers."""
        if not self._together:
            return
        weights = list(weights)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for weight, part in zip(weights, parts, strict=True):
            weight.grad = part.view_as(weight)

    def wait(self) -> None:
        """Return when every worker has come here."""
        if self._together:
            dist.barrier()
