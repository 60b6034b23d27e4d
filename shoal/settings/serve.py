"""What a server takes, and how it is run on this machine."""

from typing import Literal

from pydantic import Field

from shoal.settings.compact import SelfCompactionSettings
from shoal.settings.inference import InferenceSettings, TokenCacheSettings
from shoal.settings.network import Network
from shoal.settings.serve_groups import (
    AccessSettings,
    AdmissionSettings,
    BacklogSettings,
    DeadlineSettings,
    DialectSettings,
    FanOutSettings,
    FilterLimitSettings,
    FusionSettings,
    HealthCheckSettings,
    LoggingSettings,
    ReplicaResourceSettings,
    ReplicaSettings,
    RequestLimitSettings,
    ServedModelSettings,
    VersionSettings,
)
from shoal.settings.serve_grpc import GrpcSettings
from shoal.settings.serve_shapes import AnswerShapeSettings


# The fields of the last base come first in JSON and in --help.
class ServeSettings(
    AnswerShapeSettings,
    VersionSettings,
    LoggingSettings,
    GrpcSettings,
    DialectSettings,
    AccessSettings,
    FanOutSettings,
    FilterLimitSettings,
    BacklogSettings,
    AdmissionSettings,
    DeadlineSettings,
    RequestLimitSettings,
    ReplicaResourceSettings,
    HealthCheckSettings,
    ReplicaSettings,
    ServedModelSettings,
    InferenceSettings,
    TokenCacheSettings,
    FusionSettings,
):
    """Everything that `serve.app:build_app`, `python -m serve.run` and `shoal serve` take."""


class RunSettings(SelfCompactionSettings, ServeSettings):
    """What `python -m serve.run` and `shoal serve` take on top: how the application is run on this machine."""

    help_panel = "Run"

    host: str = Field("127.0.0.1", description="Address to listen on; nothing listens beyond loopback unless asked.")
    local: bool = Field(
        False,
        description="Serve from one process without Ray: for a laptop and for tests. It starts in seconds, and has no "
        "replicas.",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP endpoint.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the metrics for Prometheus, on loopback. Default: any free one."
    )
    proxy: Literal["haproxy", "ray"] = Field("haproxy", description="HTTP proxy: the HAProxy profile or Ray's own.")
    max_connections_per_source: int = Field(
        256,
        ge=1,
        le=20_000,
        description="Connections that one address may hold open; beyond them it is refused. This machine and "
        "trusted_proxies have no such limit.",
    )
    trusted_proxies: list[Network] | None = Field(
        None, description="Addresses or networks of proxies in front of this server, such as 10.0.0.0/8."
    )
