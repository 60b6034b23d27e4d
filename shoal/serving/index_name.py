"""The names by which clients know indexes."""

import re
from collections.abc import Sequence

from shoal.errors import InvalidArgument, NotFound

DEFAULT_NAME = "default"
"""That of an index whose place gives none; and every client may call the default index so."""
_STRANGE = re.compile(r"[^a-z0-9]+")
"""What no name holds."""
_LONGEST = 63
"""Characters of a name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Names of indexes."""
_MOST_SHOWN = 100
"""Characters of a name that a message repeats."""


def is_index_name(name: str) -> bool:
    """Whether an index can have a name."""
    return _NAME.fullmatch(name) is not None


def no_such_index(name: str, other: str | None = None) -> NotFound:
    """What is said of an index that is not there, and in the same words of one that an API key is not good for.

    Args:
        name: As it was asked for.
        other: An index that is there, to be named as an example.
    """
    example = "" if other is None else f", such as {other!r}"
    return NotFound(
        f"there is no index {name[:_MOST_SHOWN]!r} here, or the API key is not good for it; GET /v1/indexes names "
        f"those that may be asked{example}",
        param="name",
    )


def index_name(place: str) -> str:
    """Return the name of the index at a path or URI: its folder's, in small letters, digits and dashes.

    `s3://bucket/My Articles?region=x` is `my-articles`.
    """
    folder = place.partition("?")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return _STRANGE.sub("-", folder.lower()).strip("-")[:_LONGEST].rstrip("-") or DEFAULT_NAME


def named_roots(roots: Sequence[str]) -> dict[str, str]:
    """Return index roots, paths or URIs, by the names of their indexes, in order.

    Raises InvalidArgument where two have one name.
    """
    named: dict[str, str] = {}
    for root in roots:
        name = index_name(root)
        if name in named:
            raise InvalidArgument(
                f"{root} and {named[name]} would both be the index {name!r}; rename one of the folders",
                param="--index",
            )
        named[name] = root
    return named
