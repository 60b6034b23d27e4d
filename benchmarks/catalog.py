"""What many indexes in one process take: from the first question to one that is not loaded, memory, and warm searches.

    python -m benchmarks.catalog [--indexes 200] [--passages 1000] [--searches 400] [--json FILE]

One index is built, with the encoder that needs no weights, and copied, so that each has files of its own. All is
measured in one run, one search after another: an index alone in its engine, the same searches over all of a catalog
once each is loaded, in turns; first searches of indexes that are not loaded; and a catalog whose memory holds a quarter
of them. `any of the catalog` pays for memory that was used longer ago, whoever keeps it.
"""

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.support.processes import resident_mib
from benchmarks.support.random_texts import build, text
from benchmarks.support.report import Figure, report, tell
from shoal.catalog.catalog import Catalog
from shoal.catalog.entry import expected_bytes
from shoal.catalog.index import CatalogIndex
from shoal.engine.engine import LocalEngine
from shoal.records import SearchAnswer, SearchRequest
from shoal.settings import CatalogSettings, ServeSettings

COLD_S = 1.0
"""Goal: seconds from a question to an index that is not loaded to its answer, at most."""
WARM_RATIO = 1.15
"""Goal: median time of a search of a loaded index of many, beside that of one alone; the rest is noise."""
SHARE = 4
"""The bounded catalog may hold one of so many indexes."""

Search = Callable[[Sequence[SearchRequest]], Awaitable[list[SearchAnswer]]]


def main() -> None:
    """Build, copy and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=int, default=200)
    parser.add_argument("--passages", type=int, default=1000, help="of each index")
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        names = [f"index-{number}" for number in range(options.indexes)]
        build(Path(folder) / names[0], options.passages)
        for name in names[1:]:
            shutil.copytree(Path(folder) / names[0], Path(folder) / name)
        tell(f"{options.indexes} indexes of {options.passages} passages are there")
        figures = asyncio.run(measure(folder, names, options.searches))
    report("Many indexes in one process", figures, options.json)


async def measure(folder: str, names: Sequence[str], searches: int) -> list[Figure]:
    """Measure one index alone, then catalogs."""
    chance = random.Random(11)
    settings = ServeSettings(index=f"{folder}/{names[0]}", reranker="none", query_cache=0)
    before = resident_mib("RssAnon")
    size_mib = expected_bytes(settings.index) / 2**20
    catalog = await opened(settings, folder, 2 * size_mib * len(names))
    cold = await times_of([CatalogIndex(catalog, name).search for name in names], chance)
    own = resident_mib("RssAnon") - before
    engine = LocalEngine(settings)
    await engine.open()
    await times_of([engine.search] * 20, chance)
    same, others = CatalogIndex(catalog, names[0]).search, [CatalogIndex(catalog, name).search for name in names]
    # In turns, so that whatever else the machine does meets all alike.
    turns = await times_of(
        [each for _ in range(searches) for each in (engine.search, same, chance.choice(others))], chance
    )
    alone, warm, spread = turns[::3], turns[1::3], turns[2::3]
    engine.close()
    catalog.close()
    figures = [
        Figure("one index alone: median of a search", float(np.median(alone)), "ms"),
        ratio("it as one of the catalog, beside alone: median", quotient(warm, alone, 50), WARM_RATIO),
        ratio("the same: 99th of 100", quotient(warm, alone, 99), None),
        ratio("any of the catalog, beside it alone: median", quotient(spread, alone, 50), None),
        Figure("first answer of one that is not loaded: median", float(np.median(cold)), "ms"),
        Figure("the slowest of all", max(cold) / 1000, "s", f"<= {COLD_S:g}", max(cold) / 1000 <= COLD_S),
        Figure("own memory of all, loaded", own, "MiB"),
        Figure("own memory of each", own / len(names), "MiB"),
        Figure("what is reckoned for each", size_mib, "MiB"),
    ]
    tell(figures)
    return figures + await bounded(settings, folder, names, size_mib)


async def bounded(settings: ServeSettings, folder: str, names: Sequence[str], size_mib: float) -> list[Figure]:
    """Ask all indexes of a catalog that may hold a part of them, again and again."""
    chance = random.Random(13)
    limit_mib = max(16.0, size_mib * len(names) / SHARE)
    catalog = await opened(settings, folder, limit_mib)
    before, peak, most_reckoned = resident_mib("RssAnon"), 0.0, 0.0
    for name in [*names, *chance.sample(names, len(names))]:
        await times_of([CatalogIndex(catalog, name).search], chance)
        peak = max(peak, resident_mib("RssAnon") - before)
        most_reckoned = max(most_reckoned, catalog.memory_bytes() / 2**20)
    held = len(catalog.loaded_roots())
    catalog.close()
    limit = float(catalog.limits.catalog_memory_mib)
    return [
        Figure("bounded catalog: its bound", limit, "MiB"),
        Figure("most that was reckoned", most_reckoned, "MiB", "<= its bound", most_reckoned <= limit),
        Figure("most own memory on top", peak, "MiB", "<= its bound", peak <= limit),
        Figure("indexes loaded in the end", held, "", f"< {len(names)}", held < len(names)),
    ]


async def opened(settings: ServeSettings, folder: str, memory_mib: float) -> Catalog:
    """Open a catalog that may take so much memory."""
    catalog = Catalog(settings, CatalogSettings(catalog=folder, catalog_memory_mib=max(16, round(memory_mib))))
    await catalog.open()
    return catalog


async def times_of(searches: Sequence[Search], chance: random.Random) -> list[float]:
    """Ask one after another; milliseconds of each."""
    times = []
    for search in searches:
        request = SearchRequest(query=text(chance, 8), top_k=25, top_n=10, rerank=False, deadline=time.monotonic() + 60)
        begun = time.perf_counter()
        await search([request])
        times.append(1000 * (time.perf_counter() - begun))
    return times


def quotient(times: Sequence[float], others: Sequence[float], percentile: float) -> float:
    """A percentile of times beside that of others."""
    return float(np.percentile(times, percentile) / np.percentile(others, percentile))


def ratio(name: str, value: float, most: float | None) -> Figure:
    """A figure beside another one."""
    return Figure(name, value, "x", "" if most is None else f"<= {most:g}", None if most is None else value <= most)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
