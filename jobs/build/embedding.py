"""The embedding stage: Ray Data streams the numbers of the units through a pool of encoders, or threads do here."""

import gc
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from jobs.build.tasks import Embedder
from jobs.session import Workers
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.plan import Plan
from shoal.settings import BuildSettings

Counts = Mapping[str, Any]
"""What an `Embedder` tells of embedded units: each name with one value a unit."""

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


def embed_on_ray(
    settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers
) -> Iterator[Counts]:
    """Embed and commit units on the workers of a cluster, and give the counts of some as they are done.

    A worker that dies is replaced, and its unit is embedded by another.
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
    yield from done.iter_batches(batch_size=None, prefetch_batches=0)


def embed_here(settings: BuildSettings, plan: Plan, storage: Storage, units: list[int]) -> Iterator[Counts]:
    """Embed and commit units in threads of this process, by one worker, and give the counts of each as it is done."""
    threshold = gc.get_threshold()
    embedder = Embedder(settings, storage.uri, plan.hash)
    pool = ThreadPoolExecutor(_CALLS, thread_name_prefix="unit")
    wait = True
    try:
        for done in as_completed([pool.submit(embedder, {"item": np.array([unit])}) for unit in units]):
            yield done.result()
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
        gc.unfreeze()
        gc.set_threshold(*threshold)


def count(embedded: Iterable[Counts], tally: Tally, busy: Busy) -> Iterator[int]:
    """Count embedded units in `tally` and `busy`, and give the number of each."""
    for batch in embedded:
        for row, unit in enumerate(np.asarray(batch["unit"]).tolist()):
            fields, left_out = (json.loads(batch[name][row]) for name in ("fields", "left_out"))
            lines, rejected = int(batch["lines"][row]), int(batch["rejected"][row])
            tally.documents += int(batch["documents"][row])
            tally.full += int(batch["full"][row])
            tally.superseded += int(batch["superseded"][row])
            tally.add_unit(unit, lines, batch["rows"][row], rejected, fields, left_out)
            busy.add(*(batch[name][row] for name in ("worker", "started", "ended", "busy_s")))
            yield unit
