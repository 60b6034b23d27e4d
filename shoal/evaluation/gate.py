"""The gate of a build or a compaction: what a new version has to reach before it is made current.

`--gate` holds demands as name=value: `recall` of the index against exact search, and for judged queries `min_ndcg`, the
least nDCG@10, and `max_drop`, what it may lose against the active version on the same queries. They are answered by
stage one, or with `blend`, the file of a learned blend, by its reranker and it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shoal import evaluation
from shoal.encoders import Encoder, load_encoder
from shoal.errors import CorruptIndex, InvalidArgument
from shoal.evaluation.absent import Absent, absent_passages
from shoal.evaluation.asking import LocalAsker, ask_all
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.known_items import known_items, sampled_passages
from shoal.evaluation.runs import DEPTH, Run
from shoal.index_root import versions
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.rerankers import load_reranker
from shoal.search.blend_model import read_blend
from shoal.serving.plan import NO_RERANKER, plan_serving
from shoal.settings import BuildSettings, CompactSettings, EncoderSettings, EvaluateSettings, ServeSettings

SHOWN = 100
"""Queries that a verdict names at most."""
BLENDED: int = EvaluateSettings.model_fields["top_k"].default
"""Candidates of a query that a learned blend orders."""
_TIMEOUT_MS = 60_000
"""Milliseconds that one query of a gate may take."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What is demanded, and the judged queries it is measured with; `sample`: so many are made from the corpus.

    max_lost: share of the relevant passages that a version may lack; beyond it the judgements say nothing about it.
    blend: file of the learned blend that orders the answers; None for those of stage one.
    """

    recall: float | None = None
    min_ndcg: float | None = None
    max_drop: float | None = None
    dataset: Dataset | None = None
    sample: int = 0
    max_lost: float = 0.1
    blend: str | None = None


@dataclass(frozen=True, slots=True)
class Fallen:
    """A query that answers worse: its nDCG@10 now, and with the active version if that was asked."""

    id: str
    text: str
    before: float | None
    now: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a version at the gate. `reasons`: why it is not made current; none if it is.

    absent: relevant passages that the version lacks; None where no judgements were given.
    """

    reasons: list[str]
    measured: dict[str, float]
    fallen: list[Fallen] = field(default_factory=list)
    absent: Absent | None = None

    @property
    def passed(self) -> bool:
        """Whether the version may be made current."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Answers:
    """What the new and the active version found for the queries; `active` is None where there is none to compare.

    absent: relevant passages that the new version lacks; None where the queries were made from it.
    """

    dataset: Dataset
    new: Run
    active: Run | None
    absent: Absent | None = None


def read_gate(settings: BuildSettings | CompactSettings) -> Gate | None:
    """Read the demands and their judgements, so that a mistake is told before the build; None without a gate.

    Raises InvalidArgument.
    """
    demands: dict[str, str] = {}
    for part in settings.gate or ():
        name, _, value = part.partition("=")
        if name in demands:
            raise _wrong(f"{name} is there twice")
        demands[name] = value
    sample = settings.sample_judgements
    if not demands:
        if sample:
            raise InvalidArgument(
                "sample_judgements are what a gate measures with; add --gate max_drop=0.01", param="sample_judgements"
            )
        return None
    place, blend = demands.pop("qrels", None), demands.pop("blend", None)
    shares = {name: _share(name, value) for name, value in demands.items()}
    gate = Gate(**shares, sample=sample, max_lost=settings.max_lost, blend=blend)  # type: ignore[arg-type]
    if gate.recall is not None and not settings.verify_queries:
        raise _wrong("recall is measured with --verify-queries, which is 0")
    if place and sample:
        raise _wrong("qrels are judgements already; leave out either them or --sample-judgements")
    _check_judged(gate, bool(place or sample))
    return replace(gate, dataset=read_dataset(place)) if place else gate


def _check_judged(gate: Gate, judged: bool) -> None:
    """Check that what is demanded of judged queries and that there are some go together. Raises InvalidArgument."""
    limited = gate.min_ndcg is not None or gate.max_drop is not None
    if limited and not judged:
        raise _wrong("min_ndcg and max_drop need judged queries: qrels=DIR, or --sample-judgements 200")
    if judged and not limited:
        raise _wrong("say what the judged queries have to reach: min_ndcg=0.5 or max_drop=0.01")
    if gate.blend is not None:
        if not judged:
            raise _wrong("a learned blend is judged by queries: add qrels=DIR, or --sample-judgements 200")
        read_blend(gate.blend)
    if judged:
        evaluation.require()


def active_version(storage: Storage) -> str | None:
    """The version that is current; None without one, or where CURRENT is broken, which activating a version mends."""
    try:
        current = versions.read_current(storage)
    except CorruptIndex:
        return None
    return None if current is None else current.version


def ask(
    storage: Storage,
    settings: EncoderSettings,
    version: str,
    dataset: Dataset | None,
    sample: int,
    blend: str | None = None,
) -> Answers:
    """Ask a published version, and the active one if it is another, in this process, as a server would.

    Args:
        storage: The index root.
        settings: The encoder of the version, and how it computes.
        version: Which one.
        dataset: Judged queries; None makes `sample` of them from passages of the version.
        sample: How many.
        blend: File of the learned blend that orders the answers; None for those of stage one.

    Raises:
        InvalidArgument: The blend does not fit a version (param is `blend`).
    """
    manifest, active = versions.read_manifest(storage, version), active_version(storage)
    encoder = load_encoder(settings)
    absent = None if dataset is None else absent_passages(storage, manifest, dataset.judgements)
    with _open(storage, manifest, encoder, blend) as asker:
        if dataset is None:
            dataset = known_items(sampled_passages(manifest, sample, asker.passage))
        new = _ask(asker, dataset)
    if active is None or active == version:
        return Answers(dataset, new, None, absent)
    before = versions.read_manifest(storage, active)
    if not before.encoder.matches(encoder.fingerprint()):
        encoder = load_encoder(settings.part(EncoderSettings, **before.encoder.options))
    with _open(storage, before, encoder, blend) as asker:
        return Answers(dataset, new, _ask(asker, dataset), absent)


def judge(gate: Gate, manifest: Manifest, ask: Callable[[], Answers]) -> Verdict:
    """Compare a version with what is demanded. ask: called if judged queries are part of that."""
    reasons: list[str] = []
    measured: dict[str, float] = {}
    if gate.recall is not None:
        recall = manifest.index.recall_at_10
        if recall is None:
            reasons.append(
                "recall@10 was not measured by its build (--verify-queries 0); build it again with --rebuild"
            )
        else:
            measured["recall_at_10"] = recall
            if recall < gate.recall:
                reasons.append(f"recall@10 is {recall:.4f}, {gate.recall:g} was demanded")
    if gate.min_ndcg is None and gate.max_drop is None:
        return Verdict(reasons, measured)
    try:
        answers = ask()
    except InvalidArgument as error:
        if error.param != "blend":
            raise
        return Verdict([*reasons, error.message], measured)
    return _judge_answers(gate, answers, Verdict(reasons, measured))


def _judge_answers(gate: Gate, answers: Answers, verdict: Verdict) -> Verdict:
    """Add what the answers to judged queries say to a verdict."""
    from shoal.evaluation.measures import judge as judged

    reasons, measured = list(verdict.reasons), dict(verdict.measured)
    runs = [replace(answers.new, name="new"), *([replace(answers.active, name="active")] if answers.active else [])]
    now, *others = judged(runs, answers.dataset.judgements)
    before = others[0].by_query if others else None
    if (absent := answers.absent) is not None and absent.share > gate.max_lost:
        reasons.append(
            f"{absent}: they count as misses, so that the judgements say little about this version; judge what it "
            "holds (another --chunk-characters numbers the pieces of texts anew), or allow it with --max-lost"
        )
    mean = float(np.mean(list(now.by_query.values())))
    measured["ndcg_at_10"] = round(mean, 4)
    if gate.min_ndcg is not None and mean < gate.min_ndcg:
        reasons.append(f"nDCG@10 is {mean:.4f}, at least {gate.min_ndcg:g} was demanded")
    if before is not None:
        old = float(np.mean(list(before.values())))
        measured["active_ndcg_at_10"] = round(old, 4)
        if gate.max_drop is not None and old - mean > gate.max_drop:
            reasons.append(f"nDCG@10 falls from {old:.4f} to {mean:.4f}, by more than {gate.max_drop:g}")
    fallen = _fallen(answers.dataset, now.by_query, before, gate.min_ndcg or 0.0)
    return Verdict(reasons, measured, fallen, absent)


def judge_compaction(settings: CompactSettings, gate: Gate, manifest: Manifest) -> list[str]:
    """Say why a compacted version shall not be made current, in this process; nothing if it shall."""
    storage, encoder = Storage(settings.index), EncoderSettings.model_validate(manifest.encoder.options)
    return judge(
        gate, manifest, lambda: ask(storage, encoder, manifest.version, gate.dataset, gate.sample, gate.blend)
    ).reasons


def _fallen(dataset: Dataset, now: dict[str, float], before: dict[str, float] | None, least: float) -> list[Fallen]:
    """Queries that lost, those that lost most first; without another version those below the least, the worst first."""
    if before is None:
        worst = sorted((value, query) for query, value in now.items() if value < least)
        return [Fallen(query, dataset.queries[query], None, value) for value, query in worst[:SHOWN]]
    lost = sorted((now[query] - before[query], query) for query in now if now[query] < before[query])
    return [Fallen(query, dataset.queries[query], before[query], now[query]) for _, query in lost[:SHOWN]]


def _open(storage: Storage, manifest: Manifest, encoder: Encoder, blend: str | None) -> LocalAsker:
    name = read_blend(blend).reranker.name if blend else NO_RERANKER
    serve = ServeSettings(index=storage.uri, reranker=name, blend=blend)
    cache = None if storage.is_local else ShardCache(serve.cache_dir, serve.cache_bytes)
    plan = plan_serving(serve, manifest.version) if blend else None
    reranker = load_reranker(plan.reranker) if plan and plan.reranker else None
    return LocalAsker(storage, manifest, encoder, reranker, serve, _TIMEOUT_MS, cache)


def _ask(asker: LocalAsker, dataset: Dataset) -> Run:
    mode = "hybrid" if "hybrid" in asker.modes else "dense"
    if asker.blends:
        return ask_all(asker, dataset.queries, "hybrid", "blend", BLENDED)
    return ask_all(asker, dataset.queries, mode, False, DEPTH)  # type: ignore[arg-type]


def _share(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise _wrong(f"{name} should be a number from 0 to 1, not {value!r}")
    return number


def _wrong(message: str) -> InvalidArgument:
    return InvalidArgument(f"gate: {message}", param="gate")


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values."""
    fallen = [{"id": one.id, "text": one.text, "before": one.before, "now": one.now} for one in verdict.fallen]
    absent = verdict.absent
    shown = absent and {"judged": absent.judged, "count": len(absent.ids), "examples": absent.ids[:SHOWN]}
    return {
        "passed": verdict.passed,
        "reasons": verdict.reasons,
        "measured": verdict.measured,
        "fallen": fallen,
        "absent": shown,
    }
