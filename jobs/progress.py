"""How far a job is, for people: a bar on a terminal, a line every few seconds in a log, and a table at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jobs.report import span
from shoal.training.progress import Progress as Trained

_LOG_EVERY_S = 5.0
"""Seconds between the lines of a log."""


class Stage:
    """One stage of a build while it runs."""

    def __init__(self, name: str, total: int, unit: str, reporter: "Reporter") -> None:
        self._name, self._total, self._unit, self._reporter = name, total, unit, reporter
        self._start = self._told = reporter.clock()
        self._done = self._before = self._amount = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if reporter.console.is_terminal:
            columns = (
                TextColumn(f"{name:<8}"),
                BarColumn(None),
                TextColumn("{task.percentage:>3.0f}%{task.fields[speed]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=reporter.console, transient=True)
            self._task = self._bar.add_task(name, total=total, speed="")
            self._bar.start()

    def start_at(self, steps: int) -> None:
        """Count steps that an earlier run has done."""
        self._done = self._before = steps
        if self._bar is not None:
            self._bar.reset(self._task, completed=steps)

    def announce(self, text: str) -> None:
        """Say in a log what is begun now, since it may be a while until the first step is done; a bar shows it."""
        if self._bar is None:
            self._told = self._reporter.clock()
            self._reporter.say(f"{self._name}: {text}")

    def advance(self, amount: int = 0, steps: int = 1, note: str = "") -> None:
        """Count finished steps, and what they amounted to in passages; a note is told with them."""
        self._done += steps
        self._amount += amount
        now = self._reporter.clock()
        speed = f", {self._amount / max(now - self._start, 1e-9):,.0f} passages/s" if self._amount else ""
        speed += f", {note}" if note else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, speed=speed)
        elif now - self._told >= _LOG_EVERY_S:
            self._told = now
            left = (self._total - self._done) * (now - self._start) / max(self._done - self._before, 1)
            self._reporter.say(
                f"{self._name}: {self._done:,} of {self._total:,} {self._unit}{speed}, {span(left)} left"
            )

    def reach(self, step: int, note: str) -> None:
        """Count all steps up to this one."""
        self.advance(steps=step - self._done, note=note)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


class Reporter:
    """Writes to one console and remembers how long every stage took, in `seconds`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.clock = clock
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int = 1, unit: str = "units") -> Iterator[Stage]:
        """Time a stage of `total` steps, each of which is one `unit`."""
        start = self.clock()
        stage = Stage(name, total, unit, self)
        try:
            yield stage
        finally:
            stage.close()
            self.seconds[name] = round(self.clock() - start, 3)

    @contextmanager
    def following(self, name: str) -> Iterator[Callable[[Trained], None]]:
        """Time a training; the function that is given tells its progress, from whatever step it starts."""
        stage: Stage | None = None
        start = self.clock()

        def follow(progress: Trained) -> None:
            nonlocal stage
            if stage is None:
                stage = Stage(name, progress.steps, "steps", self)
                stage.start_at(progress.step - 1)
            ndcg = "" if progress.ndcg is None else f", nDCG@10 {progress.ndcg:.4f}"
            stage.reach(progress.step, f"loss {progress.loss:.4f}{ndcg}")

        try:
            yield follow
        finally:
            if stage is not None:
                stage.close()
            self.seconds[name] = round(self.clock() - start, 3)
