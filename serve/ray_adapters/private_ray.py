"""The environment that Ray and Serve must find before they start: speed, quick shutdown, and nothing beyond loopback.

Ray reads these variables when it is imported and hands them to every process it starts, so nothing here imports Ray.
A variable that the user has set is left as it is.
"""

import os
import secrets
from pathlib import Path

from serve.ray_adapters.haproxy import haproxy_environment
from shoal.settings import RunSettings
from shoal.system.proxies import no_proxy

GRPC_BYTES = 64 * 2**20
"""Largest message between deployments: the texts of a batch of queries exceed Serve's 4 MiB."""
DRAIN_S = 1
"""How long an ingress replica goes on after it was told to stop, so that the proxy sees it leave."""

SERVE = {
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(GRPC_BYTES),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    # Serve scales on what these push, every 10 s by default.
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # A proxy is ended that is not up by then, 5 s by default, which is little on a busy machine.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
    # And started again when it has not answered three times, such as when HAProxy was killed; every 10 s by default.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # Its counters are exported every 10 s (`metrics_report_interval_ms` of Ray); each process gathers them every 0.1 s.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    # User code, router and HTTP share one event loop, and deployments speak gRPC.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
"""Variables of Ray Serve in every server of ours."""
PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Makes 127.0.0.1 the address of the node on Linux too, instead of listening on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    # Workers started ahead lack the hook that keeps Serve on loopback, and would never be used.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Within ten seconds too, but ten times a second: the raylet is often a moment slower than what connects to it.
    "RAY_raylet_client_connect_timeout_milliseconds": "100",
    "RAY_raylet_client_num_connect_attempts": "100",
    # What Ray keeps of its tasks and of its own timing for a dashboard that is not there.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
"""Variables of a Ray that no other process uses."""


def prepare(folder: Path, settings: RunSettings) -> None:
    """Set the environment of a Ray that is private to this process; `folder` is for HAProxy's files and must exist."""
    environment = {**SERVE, **PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if settings.proxy == "haproxy":
        environment |= haproxy_environment(folder, settings)
    else:
        environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    os.environ["no_proxy"] = no_proxy()
