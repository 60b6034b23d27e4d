"""The page at `/`: static files that a browser gets without a key. What they ask the server for needs one as before."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).parent / "page"
"""Where the files lie, beside this module."""
FIRST: Final = "index.html"
"""The file that `/` answers with; it names the others relative to itself, so that the page works below any path."""
MEDIA_TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
"""What each kind of file is to a browser; a file of another kind is not served."""
PATHS: Final = frozenset(
    {
        "/",
        *(f"/page/{file.name}" for file in FOLDER.iterdir() if file.suffix in MEDIA_TYPES and file.name != FIRST),
    }
)
"""Every path that the page consists of."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""What the page may do: run, show and ask this server alone, and turn no text into HTML."""
HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # A browser keeps the files and asks before each use whether they are still those of the server.
        "Cache-Control": "no-cache",
    }
)
"""Headers of every file."""
_TAG = re.compile(r'(?:W/)?("[^"]*")')
"""A tag in If-None-Match, weak or not."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent, and the tag by which a browser asks whether it has changed."""

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, file: Path) -> "PageFile":
        """Read a file whose suffix is one of MEDIA_TYPES."""
        content = file.read_bytes()
        return cls(content, MEDIA_TYPES[file.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, none_match: str) -> Response:
        """Build the response: 304 without a body for a browser that has the file already.

        Args:
            none_match: The request's header If-None-Match, empty if it has none.
        """
        headers = {**HEADERS, "ETag": self.tag}
        if none_match.strip() == "*" or self.tag in _TAG.findall(none_match):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.media_type})


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`, and the files that it consists of below `/page/`."""
    for path in sorted(PATHS):
        file = PageFile.read(FOLDER / (FIRST if path == "/" else path.rpartition("/")[2]))
        app.add_route(path, _route(file), methods=["GET"], include_in_schema=False)


def _route(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    async def send_file(request: Request) -> Response:
        return file.answer(request.headers.get("if-none-match", ""))

    return send_file
