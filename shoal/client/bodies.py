"""Bodies of requests as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from shoal.errors import InvalidArgument


def render_body(body: Mapping[str, Any]) -> bytes:
    """Return a body in UTF-8. Raises InvalidArgument for what JSON cannot say, such as NaN."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"the request cannot be sent as JSON: {error}") from None
