"""From judgements to the file of a learned blend."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shoal.evaluation.dataset import read_dataset
from shoal.evaluation.recommend import SURE
from shoal.index_root.manifest import Manifest
from shoal.search.blend_features import FEATURES
from shoal.search.blend_model import BlendModel
from shoal.search.learned_blend import fingerprint_reranker
from shoal.settings import BlendTrainingSettings
from shoal.system.folders import require_writable
from shoal.training.blend import FOLDS, FittedBlend, fit_blend
from shoal.training.blend_candidates import collect_candidates, current_manifest

_TOLD_EVERY = 100
"""Queries between two lines that say how far collecting is."""


def run(settings: BlendTrainingSettings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Fit a blend and write its file, unless none ranks better than what orders answers without one.

    Args:
        settings: Of the job.
        say: Is told how far it is, a line at a time.

    Returns:
        What was found, as JSON: `written`, `queries`, `dataset`, and of a blend `trees`, `weight`, `ndcg_at_10` without
        it, the `gain` and `p_value` of cross-validation, and whether it `is_sure`.

    Raises:
        InvalidArgument: Judgements, index or options do not fit.
    """
    output = Path(settings.output).expanduser()
    require_writable(str(output.parent), "--output")
    dataset = read_dataset(settings.dataset, settings.split).sample(settings.queries)
    manifest = current_manifest(settings)

    def told(queries: Iterable[str]) -> Iterable[str]:
        for number, query in enumerate(queries):
            if number % _TOLD_EVERY == 0:
                say(f"searching: {number:,} of {len(dataset.queries):,} queries")
            yield query

    def parts(numbers: Iterable[int]) -> Iterable[int]:
        for number in numbers:
            say(f"fitting: part {number + 1} of {FOLDS}")
            yield number

    judged = collect_candidates(settings, manifest, dataset, told)
    fitted = fit_blend(judged, dataset, settings.leaves, settings.seed, parts)
    found: dict[str, Any] = {"written": fitted is not None, "queries": len(judged), "dataset": dataset.name}
    if fitted is None:
        return found
    found |= _summary(fitted)
    _model(settings, manifest, fitted, found).write(output)
    return found


def _summary(fitted: FittedBlend) -> dict[str, Any]:
    return {
        "trees": len(fitted.trees),
        "weight": fitted.weight,
        "ndcg_at_10": fitted.before,
        "gain": fitted.gain,
        "p_value": fitted.p_value,
        "is_sure": fitted.gain > 0 and fitted.p_value < SURE,
    }


def _model(
    settings: BlendTrainingSettings, manifest: Manifest, fitted: FittedBlend, found: dict[str, Any]
) -> BlendModel:
    assert manifest.lexical is not None
    kept = settings.model_dump(mode="json", exclude={"index", "output"})
    return BlendModel(
        features=list(FEATURES),
        weight=fitted.weight,
        encoder=manifest.encoder,
        reranker=fingerprint_reranker(settings.reranker),
        analyzer=manifest.lexical.analyzer_digest,
        trees=fitted.trees,
        training={**found, "version": manifest.version, "settings": kept},
    )
