"""What a server on this machine needs of its disk: looked at before Ray starts, which takes its time to fail."""

from shoal.encoders import is_weightless
from shoal.index_root.storage import Storage
from shoal.inference.model_cache import require_model_cache
from shoal.serving.plan import ServingPlan
from shoal.settings import RunSettings
from shoal.system.folders import require_writable
from shoal.system.temporary import ray_parent


def check_disk(settings: RunSettings, plan: ServingPlan) -> None:
    """Look whether everything can be written that a server writes.

    Args:
        settings: Of the server.
        plan: What is served, and by which models.

    Raises:
        InvalidArgument: A folder cannot be written, or there is no home for it to lie in.
        ModelUnavailable: A model is not to be had.
    """
    require_writable(ray_parent(), "TMPDIR")
    if settings.log_dir is not None:
        require_writable(settings.log_dir, "--log-dir")
    if not Storage(settings.index).is_local:
        require_writable(settings.cache_dir, "--cache-dir")
    if not is_weightless(plan.encoder.encoder):
        require_model_cache("encoder", plan.encoder.encoder, plan.encoder)
    reranker = plan.reranker
    if reranker is not None and plan.reranker_kind == "cross_encoder":
        require_model_cache("cross_encoder", reranker.reranker, reranker)
    elif reranker is not None and plan.reranker_kind == "late_interaction" != reranker.reranker:
        require_model_cache("encoder", reranker.reranker, reranker)
