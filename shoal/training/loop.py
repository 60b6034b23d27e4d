"""The training loop: AdamW on float32 weights, a linear warm-up and decline, the best weights on held-out queries kept.

Everything a step does follows from the weights, the moments, the seed and its number. So a run that was killed and goes
on from a checkpoint ends with the same bits, on the same machine with the same number of threads and workers.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shoal.settings import TrainSettings
from shoal.training import batches, checkpoint, scorers
from shoal.training.checkpoint import Position
from shoal.training.evaluation import ndcg
from shoal.training.lora import Adapters
from shoal.training.mining import Examples
from shoal.training.progress import Progress
from shoal.training.workers import Workers

CHECKPOINTS, BEST = "checkpoints", "best.safetensors"
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""

LARGEST_GRADIENT = 1.0
"""Norm that gradients are clipped to."""
_RATES = {False: 3e-5, True: 5e-4}
"""Peak learning rates: of all weights, and of adapters."""


class Training:
    """One training in one worker's process, wherever it had stopped before; `work` is the folder of its files."""

    def __init__(self, settings: TrainSettings, examples: Examples, work: Path, threads: int) -> None:
        self._settings, self._examples, self._work = settings, examples, work
        self._workers = Workers()
        self.scorer = scorers.load(settings, threads)
        torch.set_num_threads(threads)
        torch.manual_seed(settings.seed)  # adapters start at the same random weights everywhere
        self._adapters = Adapters(self.scorer.model, settings.lora_rank) if settings.lora_rank else None
        self.weights = {name: weight for name, weight in self.scorer.model.named_parameters() if weight.requires_grad}
        # No decay: it would also move weights that take no part, such as the pooler of an encoder.
        self._optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, weight_decay=0.0)
        found = checkpoint.load(work / CHECKPOINTS, self.weights, self._optimizer)
        self.position = found or Position()
        self._before = self.position.seconds, self.position.cpu_seconds
        self._start = time.monotonic(), time.process_time()
        epoch = batches.steps_per_epoch(examples, settings.batch_queries)
        self.steps = min(settings.epochs * epoch, settings.max_steps or settings.epochs * epoch)

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> Position:
        """Train to the end, and leave the best weights in the scorer. The first worker reports after every step."""
        position = self.position
        if not position.curve:
            self._evaluate()
        saved = time.monotonic()
        while position.step < self.steps:
            loss = self._step(position.step)
            position.step += 1
            position.losses.append(loss)
            evaluated = position.step in self._evaluations()
            if evaluated:
                self._evaluate()
            if evaluated or time.monotonic() - saved >= self._settings.checkpoint_s:
                self._save()
                saved = time.monotonic()
            if self._workers.first:
                report(Progress(position.step, self.steps, loss, position.curve[-1]["ndcg"]))
        self._workers.wait()
        checkpoint.load_weights(self._work / BEST, self.weights)
        if self._adapters is not None:
            self._adapters.merge()
        return position

    def _evaluations(self) -> set[int]:
        count = min(self._settings.evaluations, self.steps)
        return {round(self.steps * number / count) for number in range(1, count + 1)}

    def _step(self, step: int) -> float:
        """Change the weights by the gradient of one step, and return the mean loss of its queries."""
        settings = self._settings
        listings = batches.listings(
            self._examples,
            step,
            batch_queries=settings.batch_queries,
            negatives=settings.negatives,
            seed=settings.seed,
        )
        torch.manual_seed(_seed(settings.seed, step, self._workers.rank))  # dropout
        self.scorer.model.train()
        losses: list[float] = []
        for group in batches.groups(self._workers.share(listings), settings.max_length, settings.batch_tokens):
            found = self.scorer.losses(group)
            torch.autograd.backward(found.sum() / len(listings))
            losses += found.tolist()
        self._workers.add_up(self.weights.values())
        torch.nn.utils.clip_grad_norm_(self.weights.values(), LARGEST_GRADIENT)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = self._rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        shared = self._workers.gather(losses)
        return float(sum(shared) / len(shared))

    def _rate(self, step: int) -> float:
        peak = self._settings.learning_rate or _RATES[self._adapters is not None]
        warm_up = max(1, round(WARM_UP * self.steps))
        return peak * min((step + 1) / warm_up, (self.steps - step) / max(1, self.steps - warm_up + 1))

    def _evaluate(self) -> None:
        """Measure the held-out queries, add a row to the curve, and keep the weights if they are the best yet.

        The untrained weights are measured, but never the result; without held-out queries the last weights are.
        """
        position = self.position
        self.scorer.model.eval()
        with torch.inference_mode():
            own = [
                (
                    held,
                    self.scorer.score(held.query, [self._examples.passages[row] for row in held.candidates]).tolist(),
                )
                for held in self._workers.share(self._examples.dev)
            ]
        scored = self._workers.gather(own)
        value = ndcg(scored) if scored else None
        self._clock()
        row: dict[str, Any] = {
            "step": position.step,
            "loss": None,
            "ndcg": value,
            "seconds": round(position.seconds, 1),
        }
        if position.losses:
            row["loss"] = sum(position.losses) / len(position.losses)
        position.curve.append(row)
        position.losses = []
        if position.step and (value is None or position.best is None or value > position.best):
            position.best, position.best_step = value, position.step
            if self._workers.first:
                checkpoint.save_weights(self._work / BEST, self.weights)

    def _save(self) -> None:
        if self._workers.first:
            self._clock()
            checkpoint.save(self._work / CHECKPOINTS, self.position, self.weights, self._optimizer)

    def _clock(self) -> None:
        self.position.seconds = self._before[0] + time.monotonic() - self._start[0]
        self.position.cpu_seconds = self._before[1] + time.process_time() - self._start[1]


def _seed(*parts: int) -> int:
    """Mix numbers into one seed, so that neighbouring steps have unrelated ones."""
    mixed = 0
    for part in parts:
        mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return mixed
