"""What a server takes, and how it is run on this machine."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from shoal.settings.base import REPEATS, Name
from shoal.settings.catalog import CatalogSettings
from shoal.settings.compact import SelfCompactionSettings
from shoal.settings.inference import InferenceSettings, TokenCacheSettings
from shoal.settings.network import Network
from shoal.settings.ranking import FusionSettings, SearchModeSettings, SecondStageSettings, SpellingSettings
from shoal.settings.serve_groups import (
    AccessSettings,
    AdmissionSettings,
    BacklogSettings,
    DeadlineSettings,
    DialectSettings,
    FanOutSettings,
    FilterLimitSettings,
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
    SecondStageSettings,
    ServedModelSettings,
    InferenceSettings,
    TokenCacheSettings,
    FusionSettings,
    SpellingSettings,
    SearchModeSettings,
):
    """What a server of one index takes: its endpoint, and the services behind it."""


# The catalog comes first: whether an index has to be named depends on it.
class EndpointSettings(ServeSettings, CatalogSettings):
    """Everything that `serve.app:build_app`, `python -m serve.run` and `shoal serve` take."""

    help_panel = "Serve"

    index: Name = Field(
        "",
        validate_default=True,
        description="Index root to serve: a local path or a URI. May be given several times: each is an index by the "
        "name of its folder, and the first is the one that is asked where a request names none. May be left out with "
        "--catalog.",
    )
    further_indexes: list[Name] = Field(
        [],
        json_schema_extra={REPEATS: "index"},
        description="Further index roots, those of a repeated --index; each is answered by applications of its own.",
    )

    @field_validator("blend", "further_indexes")
    @classmethod
    def _is_of_one_index(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a learned blend, which is fitted to one index, where there are others."""
        if value and info.data.get("catalog" if info.field_name == "blend" else "blend"):
            raise PydanticCustomError(
                "blend", "A learned blend is fitted to one index; leave blend out, or serve that index alone"
            )
        return value

    @field_validator("index", mode="wrap")
    @classmethod
    def _is_named(cls, index: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        if index == "":
            if not info.data.get("catalog"):
                raise PydanticCustomError("missing", "Field required")
            return ""
        named: str = handler(index)
        return named


class RunSettings(SelfCompactionSettings, EndpointSettings):
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
