"""What a learned blend is fitted to: the candidates of judged queries, as a server orders them, and their features."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from shoal.errors import InvalidArgument
from shoal.evaluation.asking import LocalAsker, open_asker
from shoal.evaluation.dataset import Dataset
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.lexical.analyzer import Analyzer
from shoal.records import Rerank
from shoal.search.fusion import blend, fuse
from shoal.search.learned_blend import candidate_scores, features_of
from shoal.search.request_plan import LATE, LATE_INTERACTION
from shoal.settings import BlendTrainingSettings, EvaluateSettings
from shoal.training.blend import JudgedCandidates, ideal_dcg

Watch = Callable[[Iterable[str]], Iterable[str]]
"""Shows how far a loop over queries is: hands them through."""


def collect_candidates(
    settings: BlendTrainingSettings, manifest: Manifest, dataset: Dataset, watch: Watch = lambda queries: queries
) -> list[JudgedCandidates]:
    """Ask every query of a dataset in this process; those without candidates are left out.

    Raises InvalidArgument for a version without a lexical index, and what opening the index raises.
    """
    if manifest.lexical is None:
        raise InvalidArgument(
            f"version {manifest.version} has no lexical index, and a learned blend orders hybrid answers; build it "
            "with one",
            param="index",
        )
    is_stored = manifest.late is not None and settings.reranker == LATE_INTERACTION
    with open_asker(settings.part(EvaluateSettings, rerank="late" if is_stored else "yes")) as asker:
        assert isinstance(asker, LocalAsker)
        return ask_judged(asker, settings, Analyzer(manifest.lexical.settings), dataset, watch)


def ask_judged(
    asker: LocalAsker,
    settings: BlendTrainingSettings,
    analyzer: Analyzer,
    dataset: Dataset,
    watch: Watch = lambda queries: queries,
) -> list[JudgedCandidates]:
    """Ask every query of a dataset; those without candidates are left out.

    Args:
        asker: Of the index.
        settings: How candidates are found and ordered.
        analyzer: That of the index.
        dataset: The queries and their judgements.
        watch: Shows how far it is.
    """
    asked = (_judged_candidates(asker, settings, analyzer, query, dataset) for query in watch(list(dataset.queries)))
    return [each for each in asked if each.ids]


def current_manifest(settings: BlendTrainingSettings) -> Manifest:
    """The manifest of the version that is current. Raises NotFound without one."""
    return versions.current_manifest(Storage(settings.index))


def _judged_candidates(
    asker: LocalAsker, settings: BlendTrainingSettings, analyzer: Analyzer, query: str, dataset: Dataset
) -> JudgedCandidates:
    text = dataset.queries[query]
    rankings = asker.retrieve(text, "hybrid", max(settings.window, settings.top_k))
    candidates = [
        replace(candidate, passage=asker.passage(candidate.ref.shard, candidate.ref.row))
        for candidate in fuse(rankings, settings, settings.top_k)
    ]
    judgements: Mapping[str, int] = dataset.judgements[query]
    grades = np.array([max(0, judgements.get(candidate.id, 0)) for candidate in candidates], np.float64)
    stage: Rerank = asker.reranks or "late"
    kind = asker.reranker_kind or LATE
    best = max((candidate.score for candidate in rankings["lexical"][:1]), default=0.0)
    rerank = asker.score(text, candidates, stage) if candidates else np.empty(0, np.float32)
    blended = blend(rerank, candidates, settings, best, kind)
    scores = candidate_scores(candidates, rerank, blended, best)
    features = features_of(asker.spelled(text).text, candidates, scores, analyzer)
    ids = [candidate.id for candidate in candidates]
    return JudgedCandidates(query, ids, features, blended, grades, ideal_dcg(judgements.values()))
