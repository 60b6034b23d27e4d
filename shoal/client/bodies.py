"""What requests say, as JSON and in URLs. Free of httpx, which an index in the process does without."""

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from shoal.errors import InvalidArgument


def render_body(body: Mapping[str, Any]) -> bytes:
    """Return a body in UTF-8. Raises InvalidArgument for what JSON cannot say, such as NaN."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"the request cannot be sent as JSON: {error}") from None


def render_query(parameters: Mapping[str, Any]) -> str:
    """Return the query of a URL. Raises InvalidArgument for text that UTF-8 cannot hold."""
    try:
        return urllib.parse.urlencode(parameters)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the request cannot be sent in a URL: {error}") from None
