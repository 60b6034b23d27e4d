"""Checkpoints of a training: written under another name and renamed, so that one which is there is whole.

A checkpoint holds the trained weights, the optimizer's moments and the position. There is no state of a random number
generator and none of a schedule: both follow from the seed and the step (`batches`, `loop`).
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shoal.system.atomic_files import replaced_file

_WEIGHTS, _MOMENTS, _POSITION = "weights.safetensors", "moments.safetensors", "position.json"
Weights = dict[str, torch.nn.Parameter]


@dataclass(slots=True)
class Position:
    """How far a training is.

    curve: one row for each evaluation: step, loss (mean since the row before; null at step 0), ndcg (null without
    held-out queries), seconds. losses: of the steps since the last row.
    """

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    best_step: int | None = None
    best: float | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def save(folder: Path, position: Position, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint and remove those before it."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, partial / _WEIGHTS)
    moments = {
        f"{name} {kind}": value
        for name, weight in weights.items()
        for kind, value in optimizer.state.get(weight, {}).items()
    }
    save_file(moments, partial / _MOMENTS)
    (partial / _POSITION).write_text(json.dumps(asdict(position)))
    target = folder / f"step-{position.step:08}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def load(folder: Path, weights: Weights, optimizer: torch.optim.Optimizer) -> Position | None:
    """Put the newest checkpoint into the weights and the optimizer and return its position; None without one."""
    found = max(folder.glob("step-*"), default=None)
    if found is None:
        return None
    load_weights(found / _WEIGHTS, weights)
    for key, value in load_file(found / _MOMENTS).items():
        name, _, kind = key.rpartition(" ")
        # The count of steps stays where the optimizer keeps it: on the CPU.
        device = "cpu" if kind == "step" else weights[name].device
        optimizer.state[weights[name]][kind] = value.to(device)
    return Position(**json.loads((found / _POSITION).read_bytes()))


def save_weights(path: Path, weights: Weights) -> None:
    """Write weights to a file, which is there when it is whole."""
    with replaced_file(path) as partial:
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, partial)


def load_weights(path: Path, weights: Weights) -> None:
    """Read weights from a file."""
    with torch.no_grad():
        for name, value in load_file(path).items():
            weights[name].copy_(value)
