"""Who may ask for what: API keys, their scopes and their rates, looked at before a body is read."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.dialects.base import Engine
from serve.web.bound_engine import BoundEngine
from serve.web.errors import response_of
from serve.web.index_paths import asked_index
from serve.web.scopes import RouteScopes, check_key, check_keyless
from serve.web.static_page import PATHS as PAGE_PATHS
from shoal.engine.description import IndexDescription
from shoal.errors import InvalidArgument, Overloaded, PermissionDenied, RateLimited, ShoalError, Unauthenticated
from shoal.serving.index_name import no_such_index
from shoal.serving.keys import VARIABLE, ApiKey, find, parse, parse_lines
from shoal.serving.keys import Scope as KeyScope
from shoal.settings import ServeSettings
from shoal.system.proxies import LOOPBACK

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"}) | PAGE_PATHS
"""Paths that need no key: they tell nothing of what is in the index."""
LOOK_S = 2.0
"""Seconds between looks at the file of keys."""
BURST_S = 1.0
"""A key may ask as many queries at once as it may in this time, and always one."""

logger = logging.getLogger("ray.serve")


class Grant:
    """What one key may still do. A bucket that fills at the key's rate; a request takes from it what it asks."""

    def __init__(self, key: ApiKey, share: float, now: float) -> None:
        """`share` of the key's rate is this server's to grant."""
        self.key = key
        self._rate = None if key.per_second is None else key.per_second * share
        self._most = max(1.0, (self._rate or 0.0) * BURST_S)
        self._left = self._most
        self._at = now

    def admit(self, now: float) -> None:
        """Let a request in, which takes one query. Raises RateLimited when the key has asked what it may for now."""
        if self._rate is None:
            return
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            raise RateLimited(
                f"the API key {self.key.name} may ask {self.key.per_second:g} queries a second, and has; try again",
                retry_after_s=(1 - self._left) / self._rate,
            )
        self._left -= 1

    def charge(self, queries: int) -> None:
        """Take queries that a request turned out to hold beyond the first; what is lacking delays the next request."""
        self._left -= queries


_GRANT: ContextVar[Grant | None] = ContextVar("shoal_grant", default=None)
"""What the key of the request at hand permits."""
_KEYS: ContextVar["KeyRing | None"] = ContextVar("shoal_keys", default=None)
"""The key ring that has let the request at hand in."""


def with_problem(description: IndexDescription) -> IndexDescription:
    """Add to a description what is wrong with the file of the keys of whose holder it is for, if anything is."""
    keys = _KEYS.get()
    if keys is None or keys.problem is None:
        return description
    return replace(description, problem="; ".join(filter(None, [description.problem, keys.problem])))


def may_use(index: str) -> bool:
    """Whether the key of the request at hand is good for an index; where nobody needs a key, everybody's is."""
    grant = _GRANT.get()
    return grant is None or is_good_for(grant.key, index)


def is_good_for(key: ApiKey, index: str) -> bool:
    """Whether a key is good for an index."""
    return key.indexes is None or index in key.indexes


def as_granted(engine: Engine) -> Engine:
    """Return the engine as the holder of the key sees it whose request is being answered."""
    namespace = bound_namespace()
    return engine if namespace is None else BoundEngine(engine, namespace, time.monotonic)


def bound_namespace() -> str | None:
    """The namespace that the key of the request at hand is bound to; None for one that is not bound."""
    grant = _GRANT.get()
    return None if grant is None else grant.key.namespace


def charge(queries: int) -> None:
    """Say how many queries the request that is being answered holds."""
    if (grant := _GRANT.get()) is not None:
        grant.charge(queries - 1)


class KeyRing:
    """The keys of a server, from a file, the variable SHOAL_API_KEYS or both; the file is read again when it changes.

    Raises InvalidArgument for a file that cannot be read, a line that is wrong, and where there is no key at all. Later
    a key is revoked as soon as no line of the file names it: also where the file was emptied, deleted or has a wrong
    line. Only a file that is there and cannot be read changes nothing.

    Args:
        path: Of the file, None if there is none.
        lines: Further lines of keys, those of the variable.
        share: Of each key's rate, what this process may grant where several share the work.
        clock: Seconds from any start.
    """

    def __init__(
        self,
        path: str | None,
        lines: str = "",
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = Path(path).expanduser() if path else None
        self._fixed = parse(lines, VARIABLE)
        self._share = share
        self._clock = clock
        self._grants: dict[ApiKey, Grant] = {}
        self.problem: str | None = None
        """What is wrong with the file of keys, for the operator; None if nothing is."""
        self._looked = clock()
        self._stamp = self._stat()  # before reading: what is written meanwhile is seen the next time
        keys, problem = self._read_file()
        if not problem and not (self._fixed or keys):
            problem = f"{self._path or VARIABLE} holds no API key; make one with `shoal keys`"
        if problem:
            raise InvalidArgument(problem, param="api_keys_file")
        self._grant([*self._fixed, *(keys or [])])

    @classmethod
    def of(cls, path: str | None, share: float = 1.0) -> "KeyRing | None":
        """The keys that the settings and the environment give; None if they name none, so that nobody needs one."""
        lines = os.environ.get(VARIABLE, "")
        return cls(path, lines, share) if path or lines.strip() else None

    def admit(self, presented: list[str]) -> Grant:
        """Let a request with these keys in. Raises Unauthenticated, and RateLimited."""
        self.look()
        now = self._clock()
        for text in presented:
            if key := find(self._grants, text):
                grant = self._grants[key]
                grant.admit(now)
                return grant
        if presented:
            raise Unauthenticated("this is no API key of the server; see that it is whole, or ask for another")
        raise Unauthenticated("an API key is needed; send it as the header `Authorization: Bearer KEY`")

    def look(self) -> None:
        """Read the file of keys again if it has changed, at most every LOOK_S seconds."""
        now = self._clock()
        if self._path and now - self._looked >= LOOK_S:
            self._looked = now
            self._look_again()

    def _look_again(self) -> None:
        # Not in a thread: it is one stat, and a file of a few lines on a disk of this machine.
        stamp = self._stat()
        if stamp == self._stamp:
            return
        keys, problem = self._read_file()
        if keys is None:  # such as a disk that does not answer: nobody has revoked anything
            self._report(f"the API keys stay as they were: {problem}")
            return
        self._stamp = stamp
        self._grant([*self._fixed, *keys])
        logger.info("the API keys of %s have been read again: %d", self._path, len(self._grants))
        self._report(problem and f"API keys that are not in the file any more are revoked: {problem}")

    def _read_file(self) -> tuple[list[ApiKey] | None, str | None]:
        """Keys of the file, None if they cannot be told, and what is wrong with it. Without a file there are none."""
        if not self._path:
            return [], None
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError as error:
            return [], _unreadable(self._path, error)
        except (OSError, UnicodeDecodeError) as error:
            return None, _unreadable(self._path, error)
        keys, problems = parse_lines(text, str(self._path))
        return keys, problems[0] if problems else None

    def _grant(self, keys: list[ApiKey]) -> None:
        now = self._clock()
        self._grants = {key: self._grants.get(key) or Grant(key, self._share, now) for key in keys}

    def _report(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            logger.error("%s", problem)
        self.problem = problem

    def _stat(self) -> tuple[int, ...]:
        """What changes when the file does; empty where there is none."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return ()
        return (found.st_ino, found.st_size, found.st_mtime_ns) if found else ()


@cache
def shared_keys(path: str | None, share: float) -> KeyRing | None:
    """The one key ring of this process, for its HTTP layer and for whatever watches the file; see `KeyRing.of`."""
    return KeyRing.of(path, share)


def admit(keys: KeyRing | None, headers: Headers, wanted: KeyScope) -> Grant | None:
    """Let a request in. Raises Unauthenticated, PermissionDenied and RateLimited.

    Args:
        keys: The keys; None where nobody needs one to read, and nobody may do more.
        headers: Of the request.
        wanted: What it does.
    """
    if keys is None:
        check_keyless(wanted)
        return None
    grant = keys.admit(list(_presented(headers)))
    check_key(grant.key.name, grant.key.scope, wanted)
    return grant


@contextmanager
def granted(grant: Grant | None, keys: KeyRing | None) -> Iterator[None]:
    """Answer a request that was let in for as long as the block lasts."""
    tokens = _GRANT.set(grant), _KEYS.set(keys)
    try:
        yield
    finally:
        _GRANT.reset(tokens[0])
        _KEYS.reset(tokens[1])


def check_asked_index(grant: Grant | None) -> None:
    """Raise NotFound where the path of a request names an index that its key is not good for."""
    asked = asked_index()
    if asked is not None and grant is not None and not is_good_for(grant.key, asked):
        raise no_such_index(asked)


class Access:
    """ASGI layer that lets in who has a key which is good for what is asked; what it refuses has not been read.

    Args:
        app: The layer inside.
        keys: The keys; None where nobody needs one to read, and nobody may do more.
        scopes: Which scope each route wants.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing | None, scopes: RouteScopes) -> None:
        self._app = app
        self._keys = keys
        self._scopes = scopes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path and path not in OPEN:
            try:
                grant = admit(self._keys, Headers(scope=scope), self._scopes.wanted(scope))
                check_asked_index(grant)
            except ShoalError as error:
                headers = {}
                if isinstance(error, Unauthenticated | PermissionDenied):
                    # Who has no key gets no connection on which to send for ever either.
                    headers = {"Connection": "close"}
                if isinstance(error, Unauthenticated):
                    headers["WWW-Authenticate"] = "Bearer"
                await response_of(error, headers, scope)(scope, receive, send)
                return
            with granted(grant, self._keys):
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _presented(headers: Headers) -> Iterator[str]:
    """Every key that a request shows, as the SDKs send it."""
    authorization = headers.get("authorization", "").strip()
    scheme, _, rest = authorization.partition(" ")
    if rest and scheme.lower() == "bearer":
        yield rest.strip()
    elif authorization and not rest:
        yield authorization
    for name in ("api-key", "x-api-key"):
        if value := headers.get(name, "").strip():
            yield value


def overloaded_error(settings: ServeSettings) -> Overloaded:
    """What a search is told that comes while a server works on as many as it may."""
    return Overloaded(
        f"the server works on {settings.max_requests * settings.ingress_replicas} searches already, which is its "
        "limit; try again later",
        retry_after_s=1,
    )


class Admission:
    """Counts the HTTP requests that one process answers, and refuses those beyond `max_requests`."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._answering = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request for as long as the block lasts. Raises Overloaded beyond the limit."""
        if self._answering >= self._settings.max_requests:
            raise overloaded_error(self._settings)
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that a server listens on."""
    return host in LOOPBACK or host.startswith("127.")


def check_exposure(host: str, keyed: bool, anonymous: bool) -> None:
    """Refuse to be reachable for everybody. Raises InvalidArgument that names what to set."""
    if keyed or anonymous or is_loopback(host):
        return
    raise InvalidArgument(
        f"will not listen on {host} without API keys, where whoever reaches it could search: make keys with "
        "`shoal keys --append FILE` and set api_keys_file (--api-keys-file FILE), or set "
        "anonymous (--anonymous) if something in front of it decides who may connect",
        param="--host",
    )


def describe_keys(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document how a key is sent, and where none is needed."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    document["security"] = [{"bearer": []}, {"header": []}]
    for path in OPEN & document["paths"].keys():
        for operation in document["paths"][path].values():
            operation["security"] = []


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return f"{path} cannot be read ({reason}); correct api_keys_file, or make a key with `shoal keys --append {path}`"
