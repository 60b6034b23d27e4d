"""What the commands that talk to a server have in common."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import httpx
import typer

from shoal.client import DEFAULT_URL, Client
from shoal.errors import InvalidArgument, Unavailable

Url = Annotated[str, typer.Option(metavar="URL", envvar="SHOAL_URL", help="The server to ask.", show_envvar=True)]
ApiKey = Annotated[
    str | None, typer.Option(metavar="KEY", envvar="SHOAL_API_KEY", help="Key that the server asks for, if it does.")
]


@contextlib.contextmanager
def connect(url: str, api_key: str | None, timeout_s: float = 60.0) -> Iterator[Client]:
    """Open a client for one command.

    Raises InvalidArgument where nothing listens at the URL: that is for the user to set right.
    """
    with Client(url, api_key=api_key, timeout_s=timeout_s) as client:
        try:
            yield client
        except Unavailable as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                raise InvalidArgument(error.message, param="--url") from None
            raise


__all__ = ["DEFAULT_URL", "ApiKey", "Url", "connect"]
