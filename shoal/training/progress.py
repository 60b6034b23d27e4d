"""How far a training is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is after a step, of how many; `ndcg` of the last evaluation, None before any."""

    step: int
    steps: int
    loss: float
    ndcg: float | None
