"""What runs on the workers of a build: thin callables over `shoal.indexing`.

They return little; data goes to the root.
"""

import functools
import gc
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from shoal.encoders import (
    Encoder,
    LengthCounter,
    TermEncoder,
    TextVectors,
    check_dimensions,
    check_instruction,
    check_passage_tokens,
    load_encoder,
)
from shoal.errors import Conflict, Unavailable
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.indexing.auto_tokens import width_for_auto
from shoal.indexing.base import check_shard, open_base
from shoal.indexing.carry import CarriedEmbedder, Carrier
from shoal.indexing.commits import Counts, UnitCommit, read_shard_commit
from shoal.indexing.embed import embed_unit, require_tokens
from shoal.indexing.last_writes import LastWrites
from shoal.indexing.lexical import merge_shards
from shoal.indexing.plan import Plan
from shoal.indexing.sample import sample_vectors
from shoal.indexing.shards import count_shard, index_shard
from shoal.indexing.spool import spool_file
from shoal.indexing.token_budget import token_dims
from shoal.indexing.tokens import inherit_codec, inherited_version, read_codec, token_width, train_codec
from shoal.indexing.training import train_index
from shoal.indexing.verify import verify_shard
from shoal.metadata import FieldTypes
from shoal.records import FloatArray, TermWeights
from shoal.settings import BuildSettings, EncoderSettings, EvaluateSettings

if TYPE_CHECKING:
    from shoal.evaluation.dataset import Dataset
    from shoal.evaluation.gate import Answers
    from shoal.evaluation.runs import Run

P = ParamSpec("P")
T = TypeVar("T")

WAITS_S = (1.0, 5.0, 15.0)
"""Seconds before a step that the storage failed is tried again."""


def retry_on_unavailable(step: Callable[P, T]) -> Callable[P, T]:
    """Repeat a step after a while when the storage fails: any step may be called again, and a fault may pass."""

    @functools.wraps(step)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        for wait_s in WAITS_S:
            try:
                return step(*args, **kwargs)
            except Unavailable:
                time.sleep(wait_s)
        return step(*args, **kwargs)

    return repeated


def read_plan(root: str, plan_hash: str, version: str | None = None) -> tuple[Plan, Storage]:
    """Open an index root and the plan of the build that runs in it.

    Args:
        version: What the build is going to publish.

    Raises:
        Conflict: The plan in staging is for another version: then another run of the same build has put its own there,
            and nothing may be stored for this one.
    """
    storage = Storage(root)
    plan = Plan.from_bytes(storage.read(layout.plan(plan_hash)))
    if version is not None and plan.version != version:
        raise Conflict(
            f"another run of this build has replaced the plan of {version} by that of {plan.version}; run it again"
        )
    return plan, storage


class BusyEncoder:
    """An encoder for several threads. It computes in one of its own, for one of them at a time.

    busy_s: how long the calling thread has. full_texts: texts of the calling thread that took all that is read.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # A thread of Ray's pool that has run OpenVINO crashes its worker when it ends.
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._mine = threading.local()

    @property
    def busy_s(self) -> float:
        """Seconds that this encoder computed for the calling thread."""
        return getattr(self._mine, "busy_s", 0.0)

    @property
    def full_texts(self) -> int:
        """Texts that this encoder has read to its limit for the calling thread; 0 if it does not count."""
        return getattr(self._mine, "full_texts", 0)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._timed(self._encoder.encode_passages, texts)

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their tokens, in input order. Raises InvalidArgument if the encoder has no tokens."""
        return self._timed(require_tokens(self._encoder).encode_passage_tokens, texts)

    def encode_passage_terms(self, texts: Sequence[str]) -> list[TermWeights]:
        """Return the terms of passages, in input order, of an encoder with a sparse model beside it."""
        assert isinstance(self._encoder, TermEncoder)
        return self._timed(self._encoder.encode_passage_terms, texts)

    def _timed(self, encode: Callable[[Sequence[str]], T], texts: Sequence[str]) -> T:
        encoded, busy_s, full_texts = self._computing.submit(self._measured, encode, texts).result()
        self._mine.busy_s, self._mine.full_texts = self.busy_s + busy_s, self.full_texts + full_texts
        return encoded

    def _measured(self, encode: Callable[[Sequence[str]], T], texts: Sequence[str]) -> tuple[T, float, int]:
        """Encode, and tell the seconds that it took and how many of the texts were read to the limit."""
        started, before = time.perf_counter(), self._counted()
        encoded = encode(texts)
        return encoded, time.perf_counter() - started, self._counted() - before

    def _counted(self) -> int:
        return self._encoder.full_texts if isinstance(self._encoder, LengthCounter) else 0


class Embedder:
    """One embedding worker: loads the encoder once, then embeds one unit a call. A callable class for Ray Data.

    Safe for concurrent calls: while one unit is encoded, another is read or written.
    """

    def __init__(self, settings: BuildSettings, root: str, plan_hash: str) -> None:
        self._plan, self._storage = read_plan(root, plan_hash)
        encoder = _take_encoder(settings)
        self._encoder = BusyEncoder(encoder)
        self._codec = read_codec(self._plan, self._storage) if self._plan.stores_tokens else None
        self._base = open_base(self._plan, self._storage)
        carries = self._plan.carried is not None
        self._written = LastWrites.read(self._storage, self._plan.hash) if carries else None
        self._carrying = threading.Lock()
        self._carrier: Carrier | None = None
        self._worker = uuid.uuid4().hex
        mine, planned = encoder.fingerprint(), self._plan.encoder
        if not mine.matches(planned) or mine.dtype != planned.dtype:
            raise Conflict(
                f"this worker's encoder is {mine} and the plan's is {planned}; give all nodes the same model and device"
            )
        # Thousands of young passages at a time would have the collector look at every module again and again.
        gc.freeze()
        gc.set_threshold(100_000)

    @retry_on_unavailable
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the unit whose number is the only item of the batch, and tell its counts."""
        (unit,) = batch["item"].tolist()
        started, busy_s = time.time(), self._encoder.busy_s
        plan, storage = self._plan, self._storage
        if plan.units[unit].origin == "source":
            known = self._base, self._written
            commit = embed_unit(plan, plan.units[unit], self._encoder, storage, self._codec, *known)
        else:
            commit = self._carry(unit)
        return {
            "unit": [unit],
            "lines": [commit.lines],
            "rejected": [len(commit.rejected)],
            "rows": np.array([commit.rows]),
            "fields": [json.dumps(commit.fields)],
            "left_out": [json.dumps(commit.left_out)],
            "documents": [sum(commit.rows) if commit.documents is None else commit.documents],
            "full": [commit.full],
            "superseded": [commit.superseded],
            "worker": [self._worker],
            "started": [started],
            "ended": [time.time()],
            "busy_s": [self._encoder.busy_s - busy_s],
        }

    def _carry(self, unit: int) -> UnitCommit:
        """Carry a unit of the base or of the log over: one at a time."""
        with self._carrying:
            if self._carrier is None:
                embedder = CarriedEmbedder(self._plan, self._encoder, self._codec, self._base)
                self._carrier = Carrier(self._plan, self._storage, Log.open(self._storage), embedder)
            return self._carrier.carry(self._plan.units[unit])


def fingerprint(settings: BuildSettings) -> Fingerprint:
    """Load the encoder where workers load it, and name what decides its vectors (the dtype depends on the device).

    Raises InvalidArgument for dimensions, or token vectors to be stored, that it does not have, and for an instruction
    or windows that it does not read.
    """
    return describe_encoder(settings)[0]


def describe_encoder(settings: BuildSettings, one_process: bool = False) -> tuple[Fingerprint, int]:
    """As `fingerprint`, and the dimensions of its token vectors if late_interaction=auto may store them, else 0.

    one_process: whether all steps of the build run in this process.
    """
    encoder = load_encoder(settings)
    check_dimensions(settings, encoder.fingerprint())
    check_instruction(settings, encoder.fingerprint())
    check_passage_tokens(settings, encoder.fingerprint())
    if settings.late_interaction == "stored":
        token_width(encoder, token_dims(settings, encoder.fingerprint()))
    width = width_for_auto(settings, encoder)
    if one_process or width or settings.late_interaction == "stored":
        _held[_key(settings)] = encoder
    return encoder.fingerprint(), width


_held: dict[str, Encoder] = {}
"""The encoder that a plan was made with, until this process has learnt with it how token vectors are reduced, or embeds
with it: loading it again takes a second, a fifth of a small build."""


def _key(settings: BuildSettings) -> str:
    """What distinguishes loaded encoders."""
    return settings.part(EncoderSettings).model_dump_json()


def _take_encoder(settings: BuildSettings) -> Encoder:
    """The encoder that is held, which is not afterwards, or one that is loaded."""
    held = _held.pop(_key(settings), None)
    return load_encoder(settings) if held is None else held


def encode_speed(settings: BuildSettings, texts: Sequence[str]) -> float:
    """Passages that one worker encodes in a second, measured on these texts after a warm-up."""
    encoder = _take_encoder(settings)
    encoder.encode_passages(texts[:8])
    start = time.perf_counter()
    encoder.encode_passages(texts)
    return len(texts) / (time.perf_counter() - start)


@retry_on_unavailable
def spool(root: str, plan: Plan, file: int) -> None:
    """Make the one sequential pass over a compressed or CSV file that cuts it into units."""
    spool_file(plan, file, Storage(root))


@retry_on_unavailable
def learn_codec(settings: BuildSettings, root: str, plan_hash: str, one_process: bool = False) -> None:
    """Learn how token vectors are reduced, where workers encode, once for the whole build, or take that over.

    one_process: see `describe_encoder`. Any other process lets go of its encoder: it may be idle for hours.
    """
    plan, storage = read_plan(root, plan_hash)
    held = _held.get(_key(settings)) if one_process else _held.pop(_key(settings), None)
    if inherited_version(plan) is None:
        train_codec(plan, load_encoder(settings) if held is None else held, storage)
    else:
        inherit_codec(plan, storage)


@retry_on_unavailable
def check_base(root: str, plan_hash: str, shard: int) -> list[str]:
    """Compare what is copied from one shard of the base with its checksums. Returns the problems."""
    plan, storage = read_plan(root, plan_hash)
    return check_shard(plan, shard, storage)


def index_gpus(name: str, gpus: float) -> float:
    """GPUs that a task which trains or fills an index of a kind asks for: one, if FAISS and the cluster have any."""
    import faiss

    kind = index_kind(name)
    return 1 if gpus >= 1 and (kind.TRAINED or kind.NEEDS_GPU) and hasattr(faiss, "StandardGpuResources") else 0


@retry_on_unavailable
def train(root: str, plan_hash: str, passages: Counts, threads: int) -> None:
    """Train the index kind on a sample of the corpus, once, for all shards."""
    plan, storage = read_plan(root, plan_hash)
    train_index(plan, storage, passages, threads)


@retry_on_unavailable
def sample_queries(root: str, plan_hash: str, passages: Counts, count: int) -> FloatArray:
    """The vectors, float32 (q, dim), for which the index is compared with exact search."""
    plan, storage = read_plan(root, plan_hash)
    return sample_vectors(storage, plan.hash, passages, plan.shards, plan.encoder.dim, count, seed=2)


@retry_on_unavailable
def count_terms(root: str, plan_hash: str, shard: int) -> int:
    """Count the terms of one shard and return its number."""
    plan, storage = read_plan(root, plan_hash)
    count_shard(plan, shard, storage)
    return shard


@retry_on_unavailable
def merge_terms(root: str, plan_hash: str) -> None:
    """Sum up the terms of all shards: what every shard is scored with."""
    plan, storage = read_plan(root, plan_hash)
    merge_shards(plan, storage)


def ask(settings: EvaluateSettings, queries: dict[str, str]) -> list["Run"]:
    """Ask queries by id in every way that an evaluation wants."""
    from shoal.evaluation.evaluate import ask_here

    return ask_here(settings, queries)


def ask_version(
    settings: BuildSettings, version: str, dataset: "Dataset | None", sample: int, blend: str | None
) -> "Answers":
    """Ask a version that is about to be made current, and the one that is, the judged queries of a gate."""
    from shoal.evaluation.gate import ask

    return ask(Storage(settings.index), settings, version, dataset, sample, blend)


@retry_on_unavailable
def index(
    root: str, plan_hash: str, version: str, shard: int, queries: FloatArray, threads: int, fields: FieldTypes
) -> int:
    """Index one shard of a version and return its passages."""
    plan, storage = read_plan(root, plan_hash, version)
    return index_shard(plan, shard, storage, queries, threads, fields).entry.count


@retry_on_unavailable
def verify(root: str, plan_hash: str, version: str, shard: int) -> tuple[int, list[str]]:
    """Verify one stored shard of a version. Returns its number and its problems; with problems its commit is undone."""
    plan, storage = read_plan(root, plan_hash, version)
    problems = verify_shard(plan, read_shard_commit(storage, plan.hash, shard), storage)
    if problems:
        storage.delete(layout.shard_commit(plan.hash, shard))
    return shard, problems
