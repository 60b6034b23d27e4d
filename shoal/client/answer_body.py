"""Answer bodies: read up to a size, whoever sends them."""

import httpx

from shoal.errors import ShoalError

MAX_ANSWER_BYTES = 2**28
"""Bytes of an answer, unpacked, at most: 10,000 results, the most by default, of 26,000 bytes each."""
ANSWER_CODINGS = ("", "identity", "gzip")
"""What an answer may be packed with: not twice, which makes gigabytes of a few bytes."""


class AnswerBody:
    """The body of an answer, which is collected while it arrives and never grows beyond MAX_ANSWER_BYTES.

    Args:
        response: whose body has not been read.

    Raises:
        ShoalError: it is packed in another way than the client asks for.
    """

    def __init__(self, response: httpx.Response) -> None:
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding not in ANSWER_CODINGS:
            raise ShoalError(
                f"the answer of {response.request.url.host} is not one of a Shoal server (it is packed with "
                f"{coding[:40]!r}); correct the URL"
            )
        self._response = response
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Keep the next part, unpacked. Raises ShoalError where the answer gets too large."""
        self._size += len(part)
        if self._size > MAX_ANSWER_BYTES:
            raise ShoalError(
                f"the answer of {self._response.request.url.host} is larger than {MAX_ANSWER_BYTES} bytes; ask for "
                "fewer results, or without their texts"
            )
        self._parts.append(part)

    def whole(self) -> httpx.Response:
        """Return the answer with its body, and of its headers only what the client reads."""
        retry_after = self._response.headers.get("retry-after")
        headers = {} if retry_after is None else {"retry-after": retry_after}
        return httpx.Response(self._response.status_code, headers=headers, content=b"".join(self._parts))
