"""What a served index takes: shards, copies, memory, disk, hours of computing and latency.

Pure arithmetic over constants that `shoal.capacity.calibration` measures; docs/planning.md derives the formulas and
says what they leave out. Times are in the units that their names end in.
"""

from math import ceil, floor
from typing import NamedTuple

from shoal.capacity.constants import Constants, Point, Record
from shoal.capacity.tails import quantile_of_slowest, waiting_ms
from shoal.errors import InvalidArgument
from shoal.indexes._auto import AUTO, choose, code_bytes, compressed, lists
from shoal.serving.plan import MOST_THREADS
from shoal.settings import CapacitySettings, FusionSettings, IndexSettings

LEXICAL_SHARE = 0.7
"""Bytes of a lexical index for each byte of text; measured 0.67 with 14,490 English passages of 948 bytes."""
ROW_BYTES = 44
"""Of a passage beside its text: an id of 16 bytes, and 28 of offsets."""
MEMORY_SHARE = 0.8
"""Of a node's memory, what may be planned with: the rest is the system's."""
HEDGED_AFTER = 0.98
"""The share of calls after which a second attempt is made: the default of `hedge_percentile`."""
MOST_SHARDS = 10_000
"""A plan looks no further: one ingress replica calls every shard, so wider fan-outs cost more than they gain."""
_SAMPLE = int(IndexSettings.model_fields["train_passages"].default)
"""Passages that an index is trained on: the default of `train_passages`."""
_WINDOW = int(FusionSettings.model_fields["window"].default)
"""Candidates of each retriever that are fused: the default of the fusion window."""


class Sizes(Record):
    """Bytes of one passage in an index.

    resident: what every search goes through and memory has to hold: the vector index, the lexical index. stored: all
    that its files hold. staged: its committed unit, which lies beside them until the version is published.
    """

    resident: float
    stored: float
    staged: float


def sizes(kind: str, dim: int, text_bytes: float, lexical: bool, token_bytes: float = 0.0) -> Sizes:
    """Work out what a passage of so many bytes takes, with vectors of an index kind of `_auto.CHOICES`.

    Args:
        token_bytes: Of the token vectors that are kept of it.
    """
    text = text_bytes + ROW_BYTES
    resident = code_bytes(kind, dim) + LEXICAL_SHARE * text_bytes * lexical
    exact = 2 * dim if compressed(kind) else 0
    return Sizes(resident=resident, stored=resident + exact + text + token_bytes, staged=text + 4 * dim + token_bytes)


class Latency(Record):
    """The 99th percentile of an answer in milliseconds, without second attempts: its parts, which add up."""

    answer: float
    """HTTP, the ingress, the hop to the encoder."""
    encode: float
    """One query."""
    calls: float
    """Making a call for each shard more than one."""
    shard: float
    """A call of one shard, in the median."""
    tail: float
    """What the slowest of all hops takes longer than that."""
    wait: float
    """For the searches of earlier queries, at the utilisation that was planned for."""
    fetch: float
    """The slowest call for texts, which hybrid queries make when they know whose."""
    rerank: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.answer + self.encode + self.calls + self.shard + self.tail + self.wait + self.fetch + self.rerank


class Capacity(Record):
    """What a plan comes to."""

    passages: int
    dim: int
    kind: str
    search: Point
    """How far it looks; for `flat` everything."""
    recall_met: bool
    latency_met: bool
    shards: int
    shard_passages: int
    nodes_per_copy: int
    copies: int
    """Of the index, each on nodes of its own."""
    replicas: int
    """Of every shard, --retriever-replicas: those on one node share its copy."""
    nodes: int
    """For the retrievers, all copies together."""
    encoder_replicas: int
    ingress_replicas: int
    reranker_replicas: int
    """Of as many threads as the server gives them, or of one GPU."""
    memory_bytes: int
    """Of one copy of the index, as many versions as are held, with one retriever for each shard."""
    total_memory_bytes: int
    disk_bytes: int
    """Of one copy of the index."""
    build_disk_bytes: int
    """In the index root at the peak of a build."""
    embed_hours: float
    """Of one core, or of one GPU."""
    index_core_hours: float
    search_ms: float
    """Of one shard and one core."""
    median_ms: float
    """Of an answer on an idle server."""
    p99_ms: float
    """With second attempts, if there are several replicas."""
    p99: Latency


def plan(settings: CapacitySettings, constants: Constants) -> Capacity:
    """Plan for the fewest shards that meet the latency; for the fastest number of them if none does.

    Raises InvalidArgument without passages, when no shard fits a node, and for a kind that has not been measured.
    """
    if settings.passages is None:
        raise InvalidArgument("--passages is required; 1e9 is a billion", param="--passages")
    widths = [width for width in _widths() if width <= settings.passages]
    if settings.shards is not None:
        widths = [settings.shards]
    fitting: list[Capacity] = []
    for width in widths:
        if (one := _plan(settings, constants, width)) is None:
            continue
        if one.latency_met:
            return one
        fitting.append(one)
    if not fitting:
        raise InvalidArgument(
            f"no shard fits a node: {settings.passages:,.0f} passages in {widths[-1]:,} shards take more than "
            f"{MEMORY_SHARE:.0%} of {settings.node_memory_gib:g} GiB each, with "
            f"{settings.versions_in_memory} versions; raise --node-memory-gib or --shards, lower --versions-in-memory, "
            "or take an --index-kind that compresses more",
            param="--node-memory-gib",
        )
    return min(fitting, key=lambda one: (one.p99_ms, one.shards))


def _widths() -> list[int]:
    """Numbers of shards that are tried: 1, 2, 3, ..., from 20 on each a tenth more than the one before."""
    widths = [1]
    while widths[-1] < MOST_SHARDS:
        widths.append(min(MOST_SHARDS, max(widths[-1] + 1, widths[-1] * 11 // 10)))
    return widths


def _plan(settings: CapacitySettings, constants: Constants, shards: int) -> Capacity | None:
    """Plan with so many shards; None if one of them does not fit a node."""
    passages = ceil(settings.passages or 0)
    kind = _index_kind(settings, constants, shards)
    rows = ceil(passages / shards)
    search_ms, point = _cheapest_search(settings, constants, kind, rows)
    each = sizes(kind, settings.dim, settings.passage_bytes, settings.lexical)
    centres = 4 * settings.dim * _lists(kind, passages)
    versions, held = settings.versions_in_memory, each.stored if settings.all_in_memory else each.resident
    shard_bytes = versions * (rows * held + centres)
    room = MEMORY_SHARE * settings.node_memory_gib * 2**30
    # A query is searched by all shards at the same moment, so a node has a core for each of its shards.
    on_node = min(settings.node_cores, floor(room / (shard_bytes + constants.process_bytes)))
    if on_node == 0:
        return None
    nodes = ceil(shards / on_node)
    busiest = ceil(shards / nodes)
    retrieval_ms = constants.hop_ms + search_ms + constants.hop_ms * settings.lexical
    # A retriever searches with one core; several of one shard share the pages of its files where they share a node.
    spare_processes = floor((room / busiest - shard_bytes) / constants.process_bytes)
    sharing = max(1, min(settings.node_cores // busiest, spare_processes))
    busy = ceil(settings.qps * retrieval_ms / 1000 / settings.utilisation)
    copies = max(settings.min_replicas, ceil(busy / sharing))
    replicas = max(copies, busy)
    calls_ms = (shards - 1) * constants.call_ms
    rerank_ms = 1000 * settings.rerank_top_k * settings.passage_bytes / constants.rerank_bytes_per_s
    threads = min(MOST_THREADS, settings.node_cores) if constants.device == "cpu" else 1
    stage_ms = (constants.query_ms, constants.answer_ms + calls_ms, rerank_ms)
    encoders, ingresses, rerankers = (settings.qps * ms / 1000 / settings.utilisation for ms in stage_ms)
    latency = _latencies(settings, constants, shards, search_ms, rerank_ms / threads, hedged=replicas > 1)
    stored = passages * each.stored + shards * centres
    processes = shards * constants.process_bytes
    memory = ceil(versions * (passages * held + shards * centres) + processes)
    return Capacity(
        passages=passages,
        dim=settings.dim,
        kind=kind,
        search=point,
        recall_met=point.recall >= settings.recall,
        latency_met=latency.p99_ms <= settings.p99_ms,
        shards=shards,
        shard_passages=rows,
        nodes_per_copy=nodes,
        copies=copies,
        replicas=replicas,
        nodes=nodes * copies,
        encoder_replicas=max(1, ceil(encoders)),
        ingress_replicas=max(1, ceil(ingresses)),
        reranker_replicas=ceil(rerankers / threads),
        memory_bytes=memory,
        total_memory_bytes=memory * copies + (replicas - copies) * processes,
        disk_bytes=ceil(stored),
        build_disk_bytes=ceil(stored + passages * each.staged),
        embed_hours=passages * settings.passage_bytes / constants.encode_bytes_per_s / 3600,
        index_core_hours=passages * constants.index_us / 3.6e9,
        search_ms=search_ms,
        median_ms=latency.median_ms,
        p99_ms=latency.p99_ms,
        p99=latency.p99,
    )


def _index_kind(settings: CapacitySettings, constants: Constants, shards: int) -> str:
    """The index kind that a build takes. Raises InvalidArgument for one that has not been measured."""
    kind: str = settings.index_kind
    if kind == AUTO:
        kind = choose(ceil(settings.passages or 0), shards, settings.dim, settings.index_memory_gib * 2**30)
    if kind not in constants.kinds:
        raise InvalidArgument(
            f"index_kind: {kind!r} has not been measured, only {', '.join(constants.kinds)}", param="--index-kind"
        )
    return kind


def _cheapest_search(settings: CapacitySettings, constants: Constants, kind: str, rows: int) -> tuple[float, Point]:
    """Milliseconds of the cheapest search that reaches the recall, or of the most thorough one, and its depth."""
    points = constants.kinds[kind].points
    sufficient = [point for point in points if point.recall >= settings.recall] or points[-1:]
    costs = ((shard_ms(settings, constants, kind, point, rows), point) for point in sufficient)
    return min(costs, key=lambda cost: cost[0])


class _Latencies(NamedTuple):
    """Of an answer, in milliseconds; p99 without second attempts, p99_ms with them."""

    p99: Latency
    p99_ms: float
    median_ms: float


def _latencies(
    settings: CapacitySettings, constants: Constants, shards: int, search_ms: float, rerank_ms: float, *, hedged: bool
) -> _Latencies:
    """Add up what an answer takes.

    Args:
        settings: What is planned for.
        constants: What was measured.
        shards: How many shards a query asks.
        search_ms: Milliseconds of one search in one shard.
        rerank_ms: Milliseconds of the second stage, on the threads that it has.
        hedged: Whether slow calls are made a second time.
    """
    calls_ms = (shards - 1) * constants.call_ms
    fetch_ms = constants.hop_ms * settings.lexical
    # Texts lie in as many shards as there are results, at most.
    texts = min(shards, settings.top_k)
    slowest, slowest_text = (quantile_of_slowest(constants.tail, 0.99, calls) for calls in (shards, texts))
    p99 = Latency(
        answer=constants.answer_p99_ms,
        encode=constants.query_p99_ms,
        calls=calls_ms,
        shard=constants.hop_ms + search_ms,
        # Hops vary independently; the search of one query is much the same in every shard.
        tail=constants.hop_ms * (slowest - 1),
        wait=waiting_ms(search_ms, settings.utilisation, 0.99),
        fetch=fetch_ms * slowest_text,
        rerank=rerank_ms,
    )
    p99_ms = p99.total
    if hedged:
        second, second_text = (
            quantile_of_slowest(constants.tail, 0.99, calls, HEDGED_AFTER) for calls in (shards, texts)
        )
        p99_ms += constants.hop_ms * (second - slowest) + fetch_ms * (second_text - slowest_text)
    typical, typical_text = (quantile_of_slowest(constants.tail, 0.5, calls) for calls in (shards, texts))
    median_ms = (
        constants.answer_ms + constants.query_ms + calls_ms + search_ms + rerank_ms
        + constants.hop_ms * typical + fetch_ms * typical_text
    )  # fmt: skip
    return _Latencies(p99, p99_ms, median_ms)


def shard_ms(settings: CapacitySettings, constants: Constants, kind: str, point: Point, rows: int) -> float:
    """Milliseconds of one core for one query of one shard of so many rows."""
    wider = settings.dim / constants.search_dim
    us = constants.search_us + constants.kinds[kind].row_us * wider * rows * point.share
    read = settings.top_k
    if compressed(kind):
        # A list's centre is compared as a vector of `flat` is.
        us += constants.kinds["flat"].row_us * wider * _lists(kind, ceil(settings.passages or 0))
        asked = max(settings.top_k, _WINDOW) if settings.lexical else settings.top_k
        # What a hybrid query finds by words alone is compared with its vector too.
        exact = point.refine * asked + asked * settings.lexical
        us += constants.exact_us * wider * exact
        read += exact
    if settings.lexical:
        us += constants.lexical_us * rows
    if not settings.all_in_memory:
        us += constants.read_us * read
    return us / 1000


def _lists(kind: str, passages: int) -> int:
    return lists(min(passages, _SAMPLE)) if compressed(kind) else 0
