"""What requests say, as JSON and in URLs. Free of httpx, which an index in the process does without."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.errors import InvalidArgument


def render_body(body: Mapping[str, Any]) -> bytes:
    """Return a body in UTF-8. Raises InvalidArgument for what JSON cannot say, such as NaN."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"the request cannot be sent as JSON: {error}") from None


def embed_request(inputs: Sequence[str], input_type: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that embeds texts. A lone string stays one, which is refused, and does not become its letters."""
    return {"inputs": inputs if isinstance(inputs, str) else list(inputs), "input_type": input_type, **options}


def rerank_request(query: str, documents: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that reranks documents; as `embed_request`."""
    return {"query": query, "documents": documents if isinstance(documents, str) else list(documents), **options}


def render_query(parameters: Mapping[str, Any]) -> str:
    """Return the query of a URL. Raises InvalidArgument for text that UTF-8 cannot hold."""
    try:
        return urllib.parse.urlencode(parameters)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the request cannot be sent in a URL: {error}") from None
