"""The name by which clients of other vendors know an index."""

import re

DEFAULT_NAME = "default"
"""That of an index whose place gives none; and every client may call the default index so."""
_STRANGE = re.compile(r"[^a-z0-9]+")
"""What no name holds."""
_LONGEST = 63
"""Characters of a name."""


def index_name(place: str) -> str:
    """Return the name of the index at a path or URI: its folder's, in small letters, digits and dashes.

    `s3://bucket/My Articles?region=x` is `my-articles`.
    """
    folder = place.partition("?")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return _STRANGE.sub("-", folder.lower()).strip("-")[:_LONGEST].rstrip("-") or DEFAULT_NAME
