"""What a server needs of its machine, disk and ports: looked at before Ray starts, which takes its time to fail."""

from serve.grpc_server.exposure import check_grpc
from shoal.catalog.folder import CatalogFolder
from shoal.encoders import is_weightless
from shoal.errors import InvalidArgument
from shoal.index_root.storage import Storage
from shoal.inference.model_cache import require_model_cache
from shoal.serving.plan import ServingPlan
from shoal.settings import RunSettings
from shoal.system.folders import require_writable
from shoal.system.ports import is_free
from shoal.system.proxies import LOOPBACK
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
    _check_folders(settings, settings.index)
    if not is_weightless(plan.encoder.encoder):
        require_model_cache("encoder", plan.encoder.encoder, plan.encoder)
    reranker = plan.reranker
    if reranker is not None and plan.reranker_kind == "cross_encoder":
        require_model_cache("cross_encoder", reranker.reranker, reranker)
    elif reranker is not None and plan.reranker_kind == "late_interaction" != reranker.reranker:
        require_model_cache("encoder", reranker.reranker, reranker)


def check_catalog(settings: RunSettings) -> None:
    """Look whether the catalog is there, and whether everything can be written that a server of it writes.

    Raises InvalidArgument for a folder that cannot be written, and NotFound without the folder of the catalog.
    """
    if settings.catalog is not None:
        CatalogFolder(settings.catalog)
        _check_folders(settings, settings.catalog)


def _check_folders(settings: RunSettings, root: str) -> None:
    require_writable(ray_parent(), "TMPDIR")
    if settings.log_dir is not None:
        require_writable(settings.log_dir, "--log-dir")
    if not Storage(root).is_local:
        require_writable(settings.cache_dir, "--cache-dir")


def check_ports(settings: RunSettings) -> None:
    """Look whether a server can listen where it is told to. Raises InvalidArgument that names the option at fault."""
    require_free(settings.host, settings.port)
    if settings.metrics_port is not None:
        require_free(LOOPBACK[0], settings.metrics_port, "--metrics-port")
    check_grpc(settings, settings.host)
    if settings.grpc_port is not None:
        if settings.grpc_port in (settings.port, settings.metrics_port):
            raise InvalidArgument(f"port {settings.grpc_port} is taken twice; choose another with --grpc-port")
        require_free(settings.host, settings.grpc_port, "--grpc-port")


def require_free(host: str, port: int, param: str = "--port") -> None:
    """Raise InvalidArgument, with the option that names the port, where a server could not listen."""
    try:
        free = is_free(host, port)
    except PermissionError:
        message = f"port {port} is reserved for the system's own servers; choose one from 1024 with {param}"
        raise InvalidArgument(message, param=param) from None
    except OSError as error:
        message = f"cannot listen on {host}:{port} ({error.strerror}); correct --host"
        raise InvalidArgument(message, param="--host") from None
    if not free:
        raise InvalidArgument(f"port {port} is in use on {host}; choose another with {param}", param=param)
