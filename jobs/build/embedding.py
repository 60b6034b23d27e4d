"""The embedding stage: Ray Data streams the numbers of the units through a pool of encoders."""

import json
import logging
from collections.abc import Iterator

from jobs.build.tasks import Embedder
from jobs.session import Workers, cause
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.plan import Plan
from shoal.settings import BuildSettings

_MAX_BLOCKS = 10_000
"""Ray Data holds a little for every block in the driver: units share blocks beyond that many."""


_CALLS = 2
"""Units that a worker has in hand: while it encodes one, it reads or writes the other."""


class Busy:
    """How much of their time the workers encoded, each counted from its first unit to the end of its last."""

    def __init__(self) -> None:
        self._spans: dict[str, tuple[float, float]] = {}
        self._seconds: dict[str, float] = {}

    def add(self, worker: str, started: float, ended: float, busy_s: float) -> None:
        """Count one unit: when a worker began and ended it, in seconds since the epoch, and how long it encoded."""
        first, last = self._spans.get(worker, (started, ended))
        self._spans[worker] = min(first, started), max(last, ended)
        self._seconds[worker] = self._seconds.get(worker, 0.0) + busy_s

    def shares(self) -> list[float]:
        """The share of each worker, lowest first."""
        return sorted(self._seconds[worker] / max(last - first, 1e-9) for worker, (first, last) in self._spans.items())


def embed(
    settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers, tally: Tally, busy: Busy
) -> Iterator[int]:
    """Embed and commit units, count them in `tally` and `busy`, and give the number of each as it is done.

    A worker that dies is replaced, and its unit is embedded by another. Raises the ShoalError of a unit that cannot be
    embedded.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)

    numbers = ray.data.from_items(units, override_num_blocks=min(len(units), _MAX_BLOCKS))
    done = numbers.map_batches(
        Embedder,
        fn_constructor_args=(settings, storage.uri, plan.hash),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(workers.count, len(units)),
            max_tasks_in_flight_per_actor=2 * _CALLS,
            max_concurrent_calls_per_actor=_CALLS,
            enable_true_multi_threading=True,
        ),
        **workers.options,
    )
    try:
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for row, unit in enumerate(batch["unit"].tolist()):
                fields, left_out = (json.loads(batch[name][row]) for name in ("fields", "left_out"))
                lines, rejected = int(batch["lines"][row]), int(batch["rejected"][row])
                tally.documents += int(batch["documents"][row])
                tally.full += int(batch["full"][row])
                tally.superseded += int(batch["superseded"][row])
                tally.add_unit(unit, lines, batch["rows"][row], rejected, fields, left_out)
                busy.add(*(batch[name][row] for name in ("worker", "started", "ended", "busy_s")))
                yield unit
    except Exception as error:
        raise cause(error) from None
