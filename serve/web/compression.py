"""Compressed bodies: those that clients send with gzip, and large answers for clients that take it."""

import asyncio
import zlib
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.web.body_limits import BodyLimits
from serve.web.errors import CODES, error_response

GZIP_WINDOW = 31
"""What zlib calls a gzip stream with the largest window."""
LEVEL = 1
"""Of zlib: text in JSON shrinks to 40 %, three times as fast as at level 6, which gains another 5 %."""
PIECE_BYTES = 4096
"""Bytes that are unpacked at once: after each member of a stream, zlib copies what is left of them."""
GZIP_NAMES = frozenset({"gzip", "x-gzip"})
"""Names of the one content coding that is understood."""


class BodyDecoder:
    """ASGI layer that unpacks request bodies sent with `Content-Encoding: gzip`, and refuses other codings with 415.

    Args:
        app: The layer inside, which sees plain bodies.
        limits: Of unpacked bodies; one beyond its limit is refused with 413, and the rest is not unpacked.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        coding = _content_coding(scope) if scope["type"] == "http" else ""
        if coding in ("", "identity"):
            await self._app(scope, receive, send)
        elif coding in GZIP_NAMES:
            plain = [(name, value) for name, value in scope["headers"] if name != b"content-encoding"]
            await self._app({**scope, "headers": plain}, self._unpacked(receive, self._limits.of(scope)), send)
        else:
            message = f"the body's Content-Encoding is {coding[:40]!r}; send it plain, or with gzip"
            refusal = error_response(
                415, CODES[415], message, headers={"Accept-Encoding": "gzip", "Connection": "close"}, scope=scope
            )
            await refusal(scope, receive, send)

    def _unpacked(self, receive: Receive, most: int) -> Receive:
        unpacker = _Unpacker(most)
        complete = False

        async def receive_unpacked() -> Message:
            nonlocal complete
            message = await receive()
            if complete or message["type"] != "http.request":
                return message
            complete = not message.get("more_body", False)
            return {**message, "body": unpacker.unpack(message.get("body", b""), is_last=complete)}

        return receive_unpacked


def _content_coding(scope: Scope) -> str:
    codings = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    return ", ".join(codings).strip().lower()


class _Unpacker:
    """A gzip stream of one member or several, up to a size."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._stream = zlib.decompressobj(GZIP_WINDOW)
        self._has_begun = False

    def unpack(self, packed: bytes, *, is_last: bool) -> bytes:
        """Return what the next part holds. Raises HTTPException for what is no gzip, and for too much."""
        parts: list[bytes] = []
        try:
            for start in range(0, len(packed), PIECE_BYTES):
                self._unpack_piece(packed[start : start + PIECE_BYTES], parts)
        except zlib.error:
            raise HTTPException(
                400, "the body is not what its Content-Encoding says, gzip", {"Connection": "close"}
            ) from None
        if is_last and self._has_begun and not self._stream.eof:
            raise HTTPException(400, "the body ends within its gzip stream; send all of it")
        return b"".join(parts)

    def _unpack_piece(self, piece: bytes, parts: list[bytes]) -> None:
        while piece:
            self._has_begun = True
            if self._stream.eof:
                self._stream = zlib.decompressobj(GZIP_WINDOW)
            parts.append(self._stream.decompress(piece, self._left + 1))
            self._left -= len(parts[-1])
            if self._left < 0:
                raise HTTPException(
                    413, f"the body is larger than {self._max_bytes} bytes when unpacked", {"Connection": "close"}
                )
            piece = self._stream.unused_data


class AnswerEncoder:
    """ASGI layer that packs large answers with gzip for clients whose `Accept-Encoding` takes it.

    Answers in one piece, as all of Shoal's are; what comes in several pieces is left as it is.

    Args:
        app: The layer inside.
        least_bytes: Size from which an answer is packed; 0 packs none.
    """

    def __init__(self, app: ASGIApp, least_bytes: int) -> None:
        self._app = app
        self._least_bytes = least_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or not self._least_bytes or scope["method"] == "HEAD":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_packed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                body = message.get("body", b"")
                if not message.get("more_body", False) and len(body) >= self._least_bytes:
                    message = await _packed(scope, start, message)
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_packed)


def accepts_gzip(values: Iterable[str]) -> bool:
    """Whether values of the header Accept-Encoding take gzip, by RFC 9110: named or by `*`, with a weight beyond 0."""
    weights = {}
    for part in ",".join(values).split(","):
        name, _, parameter = part.strip().lower().partition(";")
        key, _, value = parameter.strip().partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    named = [weights[name] for name in GZIP_NAMES if name in weights]
    return (max(named) if named else weights.get("*", 0.0)) > 0


async def _packed(scope: Scope, start: Message, message: Message) -> Message:
    """Return the body of a large answer as the client takes it, and say so in the headers."""
    headers = MutableHeaders(scope=start)
    headers.add_vary_header("Accept-Encoding")
    if "content-encoding" in headers or not accepts_gzip(Headers(scope=scope).getlist("accept-encoding")):
        return message
    packed = await asyncio.to_thread(
        _pack, message["body"]
    )  # the loop goes on meanwhile: zlib holds no lock of Python's
    headers["content-encoding"], headers["content-length"] = "gzip", str(len(packed))
    return {**message, "body": packed}


def _pack(body: bytes) -> bytes:
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    return stream.compress(body) + stream.flush()
