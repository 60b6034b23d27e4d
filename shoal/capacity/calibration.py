"""Measures on this machine what `shoal.capacity.planner` reckons with, in a few minutes.

Every speed is that of one core (or of one GPU), because a plan multiplies it. Vectors are synthetic and clustered, as
in `benchmarks.scale`; texts are docstrings of the standard library, which every machine has. What a call between
replicas costs is measured with real servers.
"""

import ast
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from shoal.capacity.constants import Constants, KindCost, Point
from shoal.capacity.server_calls import measure_calls
from shoal.capacity.synthetic import CLUSTERS, DIM, Centres
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument
from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexes import ShardIndex, index_kind
from shoal.indexes._auto import CHOICES, compressed, lists
from shoal.indexing.lexical import make_info
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.index import LexicalIndex
from shoal.lexical.statistics import count_terms, look_up, merge_terms, read_terms, read_totals
from shoal.lexical.writer import FILES, LexicalWriter
from shoal.records import FloatArray, Passage
from shoal.rerankers import load_reranker
from shoal.settings import CapacitySettings, EncoderSettings, IndexSettings, LexicalSettings, RerankerSettings
from shoal.shard.lexical import LexicalRetriever
from shoal.shard.messages import ShardQuery
from shoal.shard.passages import Passages, to_batch
from shoal.shard.writer import write_shard
from shoal.system.machine import describe, usable_cores

ROWS = 50_000
"""Vectors of the indexes that are searched."""
TRAINED_ON = 20_000
"""Vectors that these indexes are trained on."""
FEW = 500
"""Vectors of the small index, which shows what a search costs whatever it reads."""
QUERIES = 100
"""Queries that each index is asked."""
NEAREST = 10
"""Results of a query, by which recall is measured."""
TEXTS = 256
"""Passages that the encoder is timed with."""
PAIRS = 25
"""Pairs of query and passage that the reranker is timed with."""
ENCODED = 200
"""Queries that the encoder is timed with, one by one."""
LEXICAL_ROWS = (2_000, 20_000)
"""Passages of the two lexical indexes that are searched."""
READS = 500
"""Reads from the disk that are timed."""
READ_BYTES = 4096
"""Bytes of one read."""
FILE_BYTES = 256 * 2**20
"""Bytes of the file that is read from."""
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
"""Filesystems that read nothing from a disk."""

Progress = Callable[[str], None]


def calibrate(settings: CapacitySettings, variables: Mapping[str, str], disk: Path, progress: Progress) -> Constants:
    """Measure everything.

    Args:
        variables: By which a Python in another folder finds jobs/ and serve/.
        disk: A folder on the disk whose reads are measured.
        progress: Hears what is measured now.

    Raises:
        ModelUnavailable: A model that is not to be had.
        InvalidArgument: A `disk` that is none.
        ShoalError: A server cannot be started.
    """
    progress("disk")
    read_us = _read_us(disk)
    with tempfile.TemporaryDirectory(prefix="shoal-calibrate-") as name:
        folder = Path(name)
        texts = list(islice(docstrings(), LEXICAL_ROWS[-1] // 4))
        progress("models")
        models = _models(settings, texts[:TEXTS])
        progress("vector indexes")
        vectors = _vectors(folder)
        progress("words")
        words = _words(folder, texts)
        progress("servers")
        calls = measure_calls(folder, texts, variables)
    return Constants(
        machine=describe(), measured_at=datetime.now(UTC).isoformat(timespec="seconds"), search_dim=DIM,
        read_us=read_us, **models, **vectors, **words, **calls,
    )  # fmt: skip


def docstrings() -> Iterator[str]:
    """Yield prose from the standard library, the same on every run of one Python."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= 100:
                    yield text[:1000]


def _models(settings: CapacitySettings, texts: Sequence[str]) -> dict[str, object]:
    import torch

    on_gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    # Seconds of a core: whatever else this machine does meanwhile does not count.
    clock = time.perf_counter if on_gpu else time.process_time
    encoder = load_encoder(EncoderSettings(encoder=settings.encoder, device=settings.device, threads=1))
    size = sum(len(text.encode()) for text in texts)
    encoder.encode_passages(texts[:8])
    encode_s = _seconds(lambda: encoder.encode_passages(texts), 3, clock)
    queries = [" ".join(text.split()[:12]) for text in texts[:ENCODED]]
    query_s = [_seconds(partial(encoder.encode_queries, [query]), 1, clock) for query in queries]
    reranker = load_reranker(
        RerankerSettings(
            reranker=settings.reranker, encoder=settings.encoder, device=settings.device, threads=1, token_cache_bytes=0
        )
    )
    pairs = [(queries[0], text) for text in texts[:PAIRS]]
    reranker.score_pairs(pairs[:4])
    rerank_s = _seconds(lambda: reranker.score_pairs(pairs), 3, clock)
    return {
        "device": "cuda" if on_gpu else "cpu",
        "encoder": settings.encoder,
        "encoder_dim": encoder.dim,
        "encode_bytes_per_s": size / encode_s,
        "query_ms": 1000 * statistics.median(query_s),
        "query_p99_ms": 1000 * float(np.percentile(query_s, 99)),
        "reranker": settings.reranker,
        "rerank_bytes_per_s": sum(len(text.encode()) for _, text in pairs) / rerank_s,
    }


def _vectors(folder: Path) -> dict[str, object]:
    """Build every kind over the same vectors, and fit the costs of a search to the times of all efforts."""
    chance = np.random.default_rng(1)
    centres = Centres(chance)
    corpus = centres.around(chance.integers(CLUSTERS, size=ROWS), chance)
    queries = centres.around(chance.integers(CLUSTERS, size=QUERIES), chance)
    nearest = np.argsort(-(queries @ corpus.T), axis=1)[:, :NEAREST]

    flat_us = {rows: _search(_open(folder, "flat", corpus[:rows]), queries, "")[0] for rows in (FEW, ROWS)}
    row_us = max(1e-6, (flat_us[ROWS] - flat_us[FEW]) / (ROWS - FEW))
    search_us = max(0.0, flat_us[FEW] - row_us * FEW)
    cells = lists(TRAINED_ON)
    tried = {}
    for kind in filter(compressed, CHOICES):
        index = _open(folder, kind, corpus)
        tried[kind] = [
            Tried(*_reach(effort.search, cells), *_time_and_recall(index, queries, nearest, effort.search))
            for effort in index.efforts()
        ]
    costs, exact_us = fit(tried, search_us + row_us * cells, ROWS)
    costs["flat"] = KindCost(row_us=row_us, points=[Point(recall=1.0, share=1.0, refine=0)])
    return {"search_us": search_us, "exact_us": exact_us, "kinds": costs}


@dataclass(frozen=True)
class Tried:
    """An effort: share of the lists, depth of exact comparison, median microseconds of a query, recall."""

    share: float
    refine: int
    us: float
    recall: float


def fit(tried: Mapping[str, Sequence[Tried]], fixed_us: float, rows: int) -> tuple[dict[str, KindCost], float]:
    """Find the costs that explain the times of searches among so many rows, by least squares of relative errors.

    Args:
        fixed_us: What every search takes.

    Returns:
        The costs of each kind, and microseconds of an exact comparison, which all kinds share.
    """
    kinds = list(tried)
    factors, times = [], []
    for place, kind in enumerate(kinds):
        for one in tried[kind]:
            row = np.zeros(len(kinds) + 1)
            row[place], row[-1] = one.share * rows, one.refine * NEAREST
            factors.append(row / one.us)
            times.append((one.us - fixed_us) / one.us)
    # Noise may find less than nothing for what hardly takes any time.
    solved = np.maximum(np.linalg.lstsq(np.array(factors), np.array(times), rcond=None)[0], 1e-6).tolist()
    exact_us, costs = solved[-1], {}
    for kind, row_us in zip(kinds, solved[:-1], strict=True):
        points: list[Point] = []
        for _, one in sorted(
            ((row_us * one.share * rows + exact_us * one.refine * NEAREST, one) for one in tried[kind]),
            key=lambda it: it[0],
        ):
            if not points or one.recall > points[-1].recall:
                points.append(Point(recall=one.recall, share=one.share, refine=one.refine))
        costs[kind] = KindCost(row_us=row_us, points=points)
    return costs, exact_us


def _open(folder: Path, kind: str, corpus: FloatArray) -> ShardIndex:
    module, settings = index_kind(kind), IndexSettings(index_kind=kind)
    path = folder / f"{kind}-{len(corpus)}.faiss"
    threads = usable_cores()
    module.build([corpus], DIM, path, module.train(corpus[:TRAINED_ON], settings, threads), threads)
    return module.open(path, settings, 1)


def _time_and_recall(
    index: ShardIndex, queries: FloatArray, nearest: np.ndarray, search_params: str
) -> tuple[float, float]:
    us, rows = _search(index, queries, search_params)
    shared = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), nearest.tolist(), strict=True)]
    return us, sum(shared) / nearest.size


def _search(index: ShardIndex, queries: FloatArray, search_params: str) -> tuple[float, np.ndarray]:
    """Median microseconds of one query, and the rows that all found."""
    seconds, rows = [], []
    for query in queries:
        began = time.perf_counter()
        found = index.search(query[np.newaxis], NEAREST, search_params=search_params)
        seconds.append(time.perf_counter() - began)
        rows.append(found[1][0])
    return 1e6 * statistics.median(seconds), np.array(rows)


def _reach(search: str, cells: int) -> tuple[float, int]:
    """Share of the lists that are probed, and the depth of exact comparison, of search parameters."""
    values = dict(part.split("=") for part in search.split(","))
    return int(values["nprobe"]) / cells, int(values["refine"])


def _words(folder: Path, texts: Sequence[str]) -> dict[str, object]:
    """Index passages as a build does, with a vector index, and search small and large shards by words."""
    settings, kind = LexicalSettings(), index_kind("ivf_sq8")
    medians, index_us = {}, 0.0
    for count in LEXICAL_ROWS:
        place = folder / f"words-{count}"
        passages = [Passage(f"p{number}", text) for number, text in enumerate(islice(cycle(texts), count))]
        chance = np.random.default_rng(2)
        vectors = Centres(chance).around(chance.integers(CLUSTERS, size=count), chance)
        trained = kind.train(vectors, IndexSettings(index_kind="ivf_sq8"), 1)
        place.mkdir()
        began = time.process_time()
        batch, storage = to_batch(passages), Storage(str(place))
        count_terms([batch], Analyzer(settings), place / "own.arrow")
        merge_terms(storage, ["own.arrow"], place / "corpus.arrow")
        _, terms, own = read_terms(storage, "own.arrow")
        totals, corpus = look_up(storage, "corpus.arrow", terms)
        writer = LexicalWriter(place, terms, own, corpus, totals, settings)
        write_shard(
            place, [(batch, vectors)], shard=0, dim=DIM, kind="ivf_sq8", trained=trained, threads=1, lexical=writer
        )
        index_us = 1e6 * (time.process_time() - began) / count
        index = LexicalIndex(
            {name: place / name for name in FILES}, count, make_info(settings, read_totals(storage, "corpus.arrow"))
        )
        retriever = LexicalRetriever(index, Passages(place / layout.PASSAGES))
        asked = [" ".join(text.split()[:12]) for text in texts[:: max(1, len(texts) // QUERIES)]]
        medians[count] = 1e6 * _by_words(retriever, asked)
    few, many = LEXICAL_ROWS
    return {"lexical_us": max(1e-4, (medians[many] - medians[few]) / (many - few)), "index_us": index_us}


def _by_words(retriever: LexicalRetriever, queries: Sequence[str]) -> float:
    """Median seconds of one query."""
    return statistics.median(_seconds(partial(_search_words, retriever, query), 1) for query in queries)


def _search_words(retriever: LexicalRetriever, query: str) -> object:
    return retriever.search([ShardQuery(query, None, "lexical")], NEAREST, [None], [np.zeros(0, np.int64)])


def _read_us(disk: Path) -> float:
    """Mean microseconds to read a page, which is not in memory, of a file in a folder. Raises InvalidArgument."""
    if (kind := _filesystem(disk)) in IN_MEMORY:
        raise InvalidArgument(
            f"{disk} lies in memory ({kind}), where reads from a disk cannot be measured; name a file on the disk that "
            "will hold the index with --constants",
            param="--constants",
        )
    chance = np.random.default_rng(3)
    try:
        with tempfile.TemporaryFile(dir=disk) as file:
            for _ in range(FILE_BYTES // 2**20):
                file.write(chance.bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            places = chance.choice(FILE_BYTES // READ_BYTES, READS, replace=False) * READ_BYTES
            seconds = _seconds(lambda: [os.pread(file.fileno(), READ_BYTES, place) for place in places.tolist()], 1)
    except OSError as error:
        raise InvalidArgument(
            f"reads from the disk cannot be measured in {disk} ({error.strerror}); correct --constants",
            param="--constants",
        ) from error
    return 1e6 * seconds / READS


def _filesystem(folder: Path) -> str | None:
    """The type of filesystem that a folder lies in; None where the system does not tell (Linux: proc(5), mountinfo)."""
    number = folder.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    # ID, parent, device, root, mount point, options, fields of any number, "-", type, source, options.
    mounts = [line.partition(" - ") for line in lines]
    return next((rest.split()[0] for first, _, rest in mounts if first.split()[2] == wanted), None)


def _seconds(call: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of a call."""
    taken = []
    for _ in range(times):
        began = clock()
        call()
        taken.append(clock() - began)
    return statistics.median(taken)
