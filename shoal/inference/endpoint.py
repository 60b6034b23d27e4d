"""Models that another server computes: one endpoint, asked over HTTP from an event loop in a thread of its own.

So that whoever waits, in a thread or in another event loop, shares one pool of connections.
"""

import asyncio
import json
import math
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from shoal.errors import DeadlineExceeded, InvalidArgument, ModelUnavailable, Overloaded, ShoalError, Unavailable
from shoal.system.proxies import LOOPBACK

T = TypeVar("T")
_CONNECTIONS = 64
"""Connections to an endpoint, at most; who needs one more waits for it until its deadline."""
_ATTEMPTS = 3
"""Times that a request is sent at most, while the endpoint is not reachable or overloaded."""
_BACKOFF_S = 0.1
"""Attempt n waits up to _BACKOFF_S * 2**n seconds, on top of what the endpoint's Retry-After says."""
_MOST_BYTES = 512 * 2**20
"""Bytes of an answer that are read at most."""
_SHOWN = 200
"""Characters of an endpoint's own message that an error repeats."""


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint, and the model that it is asked for; None leaves the choice to it."""

    url: str
    model: str | None

    @classmethod
    def parse(cls, name: str, ending: str, option: str) -> "Address":
        """Read `http://HOST/v1/rerank#MODEL`.

        Args:
            name: The address.
            ending: What the path has to end with.
            option: Whose value it is.

        Raises:
            InvalidArgument: It names no such endpoint, or brings a password.
        """
        try:
            url = httpx.URL(name)
        except httpx.InvalidURL as error:
            raise InvalidArgument(f"{option}: {name!r} is no address ({error})", param=option) from None
        if url.userinfo or url.query:
            raise InvalidArgument(
                f"{option}: an address is shown and kept, so it holds no password and nothing behind a question mark; "
                f"put the key in {key_variable(option)}",
                param=option,
            )
        if not url.host or not url.path.endswith(ending):
            raise InvalidArgument(
                f"{option}: {name!r} should be the whole address of an endpoint, such as http://host:8000/v1{ending}; "
                "a model's name may follow a #",
                param=option,
            )
        return cls(str(url.copy_with(fragment=None)), url.fragment or None)


def key_variable(option: str) -> str:
    """Name the environment variable that holds the key for the endpoint of an option."""
    return f"SHOAL_{option.upper()}_KEY"


class Endpoint:
    """Sends JSON to an address and returns the JSON that it answers. Safe for concurrent calls.

    The key is that of SHOAL_ENCODER_KEY or SHOAL_RERANKER_KEY, or the content of the file that the same name with _FILE
    names; it is sent as a bearer token and shown nowhere.

    Args:
        address: Where.
        option: `encoder` or `reranker`, whose value the address is.

    Raises:
        InvalidArgument: A key that cannot be read.
    """

    def __init__(self, address: Address, option: str) -> None:
        self.address = address
        self._option = option
        self._headers = {"content-type": "application/json", **_authorization(option)}
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        threading.Thread(target=self._loop.run_forever, name=f"{option} endpoint", daemon=True).start()

    def __del__(self) -> None:
        if (loop := getattr(self, "_loop", None)) is not None:
            loop.call_soon_threadsafe(loop.stop)

    def ask(self, bodies: Sequence[Any], timeout_s: float) -> list[Any]:
        """Post bodies side by side and wait for all answers, in order. Not from the endpoint's own thread.

        Raises:
            DeadlineExceeded: One had not come after so many seconds.
            Unavailable, Overloaded: The endpoint cannot be reached, or has too much to do.
            ModelUnavailable: It refuses the key.
            ShoalError: It answers otherwise than with JSON, or refuses the request.
        """
        return self._begin(self._post_all(bodies, time.monotonic() + timeout_s)).result()

    async def ask_until(self, bodies: Sequence[Any], deadline: float) -> list[Any]:
        """The same for an event loop; deadline: by `time.monotonic`."""
        return await asyncio.wrap_future(self._begin(self._post_all(bodies, deadline)))

    def look_up(self, url: str, timeout_s: float) -> Any:
        """Get another address with the same key, as often as `ask` does; None for whatever fails."""
        try:
            return self._begin(self._tried("GET", url, None, time.monotonic() + timeout_s)).result()
        except ShoalError:
            return None

    def _begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _post_all(self, bodies: Sequence[Any], deadline: float) -> list[Any]:
        url = self.address.url
        tasks = [
            asyncio.ensure_future(self._tried("POST", url, json.dumps(body).encode(), deadline)) for body in bodies
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _tried(self, method: str, url: str, content: bytes | None, deadline: float) -> Any:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._send(method, url, content, deadline)
            except (Unavailable, Overloaded) as error:
                wait = (error.retry_after_s or 0) + random.uniform(0, _BACKOFF_S * 2**attempt)  # noqa: S311
                if attempt == _ATTEMPTS or time.monotonic() + wait >= deadline:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, method: str, url: str, content: bytes | None, deadline: float) -> Any:
        if self._client is None:
            direct = {f"all://{f'[{host}]' if ':' in host else host}": None for host in LOOPBACK}
            self._client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(None),  # each call has a deadline as a whole
                mounts=direct,
                limits=httpx.Limits(max_connections=_CONNECTIONS),
            )
        late = DeadlineExceeded(f"the deadline passed before {url} had answered; allow more time")
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async with self._client.stream(method, url, content=content) as response:
                    read = bytearray()
                    async for part in response.aiter_bytes():
                        read += part
                        if len(read) > _MOST_BYTES:
                            raise ShoalError(f"{url} answers with more than {_MOST_BYTES:,} bytes")
        except TimeoutError:
            raise late from None
        except httpx.HTTPError as error:
            raise Unavailable(f"{url} cannot be reached ({type(error).__name__}: {error})") from None
        return self._understood(url, response, bytes(read))

    def _understood(self, url: str, response: httpx.Response, read: bytes) -> Any:
        status = response.status_code
        if response.is_success:
            try:
                return json.loads(read)
            except (ValueError, RecursionError):
                raise ShoalError(f"{url} answers with something else than JSON") from None
        said = read[:_SHOWN].decode("utf-8", "replace").strip()
        if status in (401, 403):
            raise ModelUnavailable(
                f"{url} refuses the key ({status}): set {key_variable(self._option)} or its _FILE", param=self._option
            )
        if status in (408, 429, 502, 503, 504):
            kind = Overloaded if status == 429 else Unavailable
            raise kind(f"{url} answers {status}: {said}", retry_after_s=_seconds(response.headers.get("retry-after")))
        raise ShoalError(f"{url} answers {status}: {said}")


def readable(text: str) -> str:
    """A text that every endpoint takes: none refuses it for being blank, or for half a surrogate pair."""
    return text.encode("utf-8", "replace").decode() if text.strip() else "-"


def _authorization(option: str) -> dict[str, str]:
    variable = key_variable(option)
    key, source = os.environ.get(variable, ""), variable
    if name := os.environ.get(f"{variable}_FILE", ""):
        path, source = Path(name).expanduser(), f"{variable}_FILE"
        try:
            key = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{source}: {path} cannot be read ({error}); correct it", param=source) from None
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgument(f"{source} should hold one key of printable ASCII characters", param=source)
    return {"authorization": f"Bearer {key}"} if key else {}


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after or "")
    except ValueError:  # absent, or a date
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
