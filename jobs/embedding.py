"""The embedding stage: Ray Data streams the numbers of the units through a pool of encoders."""

import logging
from collections.abc import Iterator

from jobs.session import Workers, cause
from jobs.tasks import Embedder
from shoal.build.commits import Tally
from shoal.plan import Plan
from shoal.settings import BuildSettings
from shoal.storage import Storage

_MAX_BLOCKS = 10_000
"""Ray Data holds a little for every block in the driver: units share blocks beyond that many."""


def embed(
    settings: BuildSettings, plan: Plan, storage: Storage, units: list[int], workers: Workers, tally: Tally
) -> Iterator[int]:
    """Embed and commit units, count them in `tally`, and give the number of each as it is done, in any order.

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
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(units))),
        **workers.options,
    )
    try:
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for unit, lines, rejected, rows in zip(
                batch["unit"].tolist(), batch["lines"].tolist(), batch["rejected"].tolist(), batch["rows"], strict=True
            ):
                tally.add_unit(unit, lines, rows, rejected)
                yield unit
    except Exception as error:
        raise cause(error) from None
