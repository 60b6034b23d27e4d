"""The models of an engine, loaded once and kept for all versions that it serves."""

from typing import Protocol

from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.rerankers import Reranker, load_reranker
from shoal.search.local import LocalModels, LocalReranker
from shoal.search.services import SearchModels
from shoal.serving.plan import ServingPlan, check_encoder, plan_serving
from shoal.settings import ServeSettings


class ModelSource(Protocol):
    """Where engines take their models from."""

    def take(self, settings: ServeSettings, version: str) -> SearchModels:
        """Return the models for a version of an index root. Raises what `plan_serving` and `load_models` raise."""
        ...

    def give_back(self, models: SearchModels) -> None:
        """Let go of models that were taken."""
        ...


class OwnModels:
    """Loads models for one engine alone, and ends them with it."""

    def take(self, settings: ServeSettings, version: str) -> LocalModels:
        """Load the models for a version."""
        return load_models(plan_serving(settings, version), settings)

    def give_back(self, models: SearchModels) -> None:
        """End their threads."""
        models.close()


def load_models(
    plan: ServingPlan,
    settings: ServeSettings,
    loaded_reranker: LocalReranker | None = None,
    loaded_encoder: Encoder | None = None,
) -> LocalModels:
    """Load what a plan names.

    Raises EncoderMismatch for another encoder than the version was built with, and what loading raises.

    Args:
        plan: The version and its models.
        settings: Of the search.
        loaded_reranker: The reranker of the plan where it is loaded already; it stays when these models are closed.
        loaded_encoder: The encoder of the plan where it is loaded already, and nobody else computes with it.
    """
    encoder = loaded_encoder or load_encoder(plan.encoder)
    check_encoder(encoder.fingerprint(), plan.manifest.encoder)
    if loaded_reranker is not None:
        return LocalModels(encoder, loaded_reranker, settings, plan.reranker_kind, False, plan.reranker_scale)
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
    from shoal.rerankers.late_interaction import over

    return over(encoder, settings.token_cache_bytes)
