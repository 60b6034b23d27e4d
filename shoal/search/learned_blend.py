"""A learned blend at work: trees over scores and texts of the candidates, added to what orders an answer anyway.

    score = blended + weight * s(blended) * z(trees)

z is the z-score among the candidates of the query, and s the standard deviation: the order is that of
`z(blended) + weight * z(trees)`, and the scores stay on the scale that they have without it. The trees are LambdaMART's
(Burges 2010, "From RankNet to LambdaRank to LambdaMART"), fitted to somebody's own judgements by `jobs.train_blend`.
"""

from collections.abc import Sequence

import numpy as np

from shoal.errors import InvalidArgument
from shoal.index_root.manifest import LexicalInfo, Manifest
from shoal.inference import models
from shoal.inference.names import is_remote
from shoal.lexical.analyzer import Analyzer
from shoal.records import Candidate, FloatArray
from shoal.rerankers import kind_of, rerankers
from shoal.search.blend_features import CandidateScores, Numbers, compute_features, z_scores
from shoal.search.blend_model import BlendModel, Forest, RerankerFingerprint
from shoal.search.request_plan import LATE_INTERACTION, RequestPlan
from shoal.search.served_version import ServedVersion


def fingerprint_reranker(reranker: str) -> RerankerFingerprint:
    """Tell what the setting `reranker` names.

    Stored token vectors count as `late_interaction`, whose scores they give. Raises ModelUnavailable.
    """
    kind, weights = kind_of(reranker), None
    if not is_remote(reranker) and reranker not in rerankers():
        location = models.resolve(reranker)
        weights = location.digest(location.fetch())
    return RerankerFingerprint(name=reranker, kind=kind, weights=weights)


def check_blend(model: BlendModel, manifest: Manifest, reranker: str | None) -> None:
    """Check that a blend was fitted over what a version and a server have. reranker: its name, None without one.

    Raises InvalidArgument.
    """
    problem = find_mismatch(model, ServedVersion.of(manifest))
    if problem is None and reranker is None and not (manifest.late and compares_tokens(model)):
        problem = "it orders what a reranker has scored, and there is none"
    if problem is None and reranker is not None and not fingerprint_reranker(reranker).matches(model.reranker):
        problem = f"it was fitted over the scores of the reranker {model.reranker.name}, and this one is {reranker}"
    if problem is not None:
        raise InvalidArgument(
            f"the learned blend does not fit: {problem}; leave it out, or fit one with `python -m jobs.train_blend`",
            param="blend",
        )


def compares_tokens(model: BlendModel) -> bool:
    """Whether a blend was fitted over scores that stored token vectors give as well."""
    return model.reranker.name == LATE_INTERACTION


def find_mismatch(model: BlendModel, version: ServedVersion) -> str | None:
    """Say why a blend does not fit a version; None if it does."""
    if version.lexical is None:
        return f"version {version.name} has no lexical index, and it orders hybrid answers"
    if version.lexical.analyzer_digest != model.analyzer:
        return f"version {version.name} cuts texts into other terms than the version that it was fitted over"
    if version.encoder is None or not version.encoder.matches(model.encoder):
        return f"version {version.name} was built with {version.encoder}, and it was fitted over {model.encoder}"
    return None


class LearnedBlend:
    """A learned blend of a server. Safe for several threads.

    Args:
        model: Of the blend; `check_blend` has found that it fits.
        reranker_kind: What the server's reranker is (`shoal.rerankers.kind_of`).
    """

    def __init__(self, model: BlendModel, reranker_kind: str) -> None:
        self._model = model
        self._forest = Forest(model.trees, model.features)
        self._reads = reranker_kind == model.reranker.kind
        self._compares_tokens = compares_tokens(model)
        self._analyzers: dict[str, Analyzer] = {}

    def is_for(self, plan: RequestPlan) -> bool:
        """Whether an answer is ordered by it: hybrid ones are that the reranker scores which it was fitted over."""
        scored = self._compares_tokens if plan.is_late else self._reads and plan.second_stage != "none"
        return scored and plan.mode == "hybrid"

    def problem(self, version: ServedVersion) -> str | None:
        """Say why it does not fit a version; None if it does."""
        return find_mismatch(self._model, version)

    def order(
        self,
        query: str,
        candidates: Sequence[Candidate],
        scores: CandidateScores,
        lexical: LexicalInfo,
    ) -> FloatArray:
        """Return what orders the candidates, float32 (n,).

        Args:
            query: As it was searched.
            candidates: N, each with its passage.
            scores: Of the candidates.
            lexical: Of the version.
        """
        features = features_of(query, candidates, scores, self._analyzer(lexical))
        return add_trees(scores.blended, self._forest.predict(features), self._model.weight)

    def _analyzer(self, lexical: LexicalInfo) -> Analyzer:
        """The analyser of a version; the same one for all that cut texts alike."""
        return self._analyzers.setdefault(lexical.analyzer_digest, Analyzer(lexical.settings))


def candidate_scores(
    candidates: Sequence[Candidate], rerank: FloatArray, blended: FloatArray, max_lexical_score: float
) -> CandidateScores:
    """The scores of n candidates of a hybrid query, which the second stage gave `rerank`, float32 (n,)."""
    lexical = np.array([candidate.scores["lexical"] for candidate in candidates], np.float64)
    return CandidateScores(
        dense=np.array([candidate.scores["dense"] for candidate in candidates], np.float64),
        lexical=lexical / max_lexical_score if max_lexical_score > 0 else np.zeros(len(candidates)),
        stage_one=np.array([candidate.score for candidate in candidates], np.float64),
        rerank=rerank.astype(np.float64),
        blended=blended.astype(np.float64),
    )


def features_of(query: str, candidates: Sequence[Candidate], scores: CandidateScores, analyzer: Analyzer) -> FloatArray:
    """The features of n candidates with passages, float32 (n, len(FEATURES))."""
    texts = [candidate.passage.content if candidate.passage else "" for candidate in candidates]
    return compute_features(scores, analyzer.terms(query), [analyzer.terms(text) for text in texts])


def add_trees(blended: Numbers, trees: Numbers, weight: float) -> FloatArray:
    """Add the sums of trees, float64 (n,), to scores, float64 (n,); returns float32 (n,)."""
    spread = float(blended.std()) if len(blended) else 0.0
    return (blended + weight * spread * z_scores(trees)).astype(np.float32)
