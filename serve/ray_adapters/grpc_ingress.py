"""An ingress replica that answers over gRPC too, on a port that all ingress replicas of its machine share."""

from ray.serve.context import _get_global_client

from serve.grpc_server.server import GrpcServer
from serve.replicas.ingress import Ingress
from serve.web.access import shared_keys
from shoal.settings import ServeSettings
from shoal.system.proxies import LOOPBACK


class GrpcIngress(Ingress):
    """An ingress that, as Serve stops it, answers first what it was asked over gRPC: Serve knows nothing of that."""

    async def __del__(self) -> None:
        """Serve calls this when it stops a replica that has answered what Serve has sent it."""
        await self.stop_grpc()


def make_grpc_server(settings: ServeSettings, host: str | None, ingress: Ingress) -> GrpcServer:
    """Make the gRPC server of an ingress replica.

    Args:
        settings: Of the server, with grpc_port.
        host: The address to listen on; None for that of Serve's proxies.
        ingress: Answers, and counts what is under way.
    """
    keys = shared_keys(settings.api_keys_file, 1 / settings.ingress_replicas)
    return GrpcServer(
        lambda: ingress, settings, host or serve_address(), keys=keys, exchanges=ingress.exchanges, shares_port=True
    )


def serve_address() -> str:
    """The address on which Serve's proxies listen."""
    client = _get_global_client()
    assert client is not None
    return client.http_config.host or LOOPBACK[0]
