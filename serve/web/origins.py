"""Which names a server answers to, and which pages may ask it: against DNS rebinding and requests across sites.

A page that a browser shows can send requests to servers that only its machine reaches, under a name of its own that it
lets point there. Such a name stands in `Host`; where a request comes from stands in `Origin` and `Sec-Fetch-Site`.
"""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.web.errors import response_of
from shoal.errors import PermissionDenied

EXEMPT = frozenset({"/healthz", "/readyz"})
"""Paths that answer whoever asks: probes and balancers name a server as they like, and learn nothing of the index."""
PAGES = frozenset({"/", "/docs"})
"""Paths that a link on any page may lead to."""
LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")
"""Names of this machine for itself. Addresses need no list: see `OriginGuard`."""


class OriginGuard:
    """ASGI layer that refuses requests under a strange name and from strange pages.

    Args:
        app: What answers the others.
        hosts: Names that `Host` may have, without port; None for any. An address is always accepted, since no page can
            make one its own.
        origins: Pages of other origins that may ask, as browsers name them: scheme, host and port.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None, origins: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(map(_name, hosts))
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            problem = None if path in EXEMPT else self._problem(scope["method"], path, Headers(scope=scope))
            if problem is not None:
                refusal = response_of(PermissionDenied(problem), {"Connection": "close"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, method: str, path: str, headers: Headers) -> str | None:
        host = _name(headers.get("host", ""))
        if self._hosts is not None and host and host not in self._hosts and not _is_address(host):
            return f"this server does not answer to the name {host[:100]}; add it with --allowed-hosts"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin in self._origins or site in ("same-origin", "none"):
            return None
        opens_page = method in ("GET", "HEAD") and path in PAGES and headers.get("sec-fetch-mode") == "navigate"
        if site is not None and not opens_page:
            return "pages of other sites may not ask this server; let one in with --cors-origin"
        if origin is not None and _name(origin.partition("://")[2]) != host:
            return f"the page {origin[:100]} may not ask this server; let it in with --cors-origin"
        return None


def _name(authority: str) -> str:
    """The host of an authority as browsers compare it: lower case, without port, brackets and final dot."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
