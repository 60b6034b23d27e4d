"""The models of an engine, loaded once and kept for all versions that it serves."""

from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.rerankers import Reranker, load_reranker
from shoal.search.local import LocalModels
from shoal.serving.plan import ServingPlan, check_encoder
from shoal.settings import ServeSettings


def load_models(plan: ServingPlan, settings: ServeSettings) -> LocalModels:
    """Load what a plan names.

    Raises EncoderMismatch for another encoder than the version was built with, and what loading raises.
    """
    encoder = load_encoder(plan.encoder)
    check_encoder(encoder.fingerprint(), plan.manifest.encoder)
    reranker = _late_interaction(encoder, plan, settings)
    shared = reranker is not None
    if reranker is None and plan.reranker is not None:
        reranker = load_reranker(plan.reranker)
    return LocalModels(encoder, reranker, settings, plan.reranker_kind, shared, plan.reranker_scale)


def _late_interaction(encoder: Encoder, plan: ServingPlan, settings: ServeSettings) -> Reranker | None:
    """Late interaction over the encoder that is there already, for half the memory and half the time to load; None if
    the plan wants another reranker."""
    if plan.reranker is None or plan.reranker.reranker != "late_interaction" or not isinstance(encoder, TokenEncoder):
        return None
    from shoal.rerankers.late_interaction import LateInteraction

    return LateInteraction(encoder, settings.token_cache_bytes)
