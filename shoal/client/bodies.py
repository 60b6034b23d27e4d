"""What requests say, as JSON and in URLs. Free of httpx, which an index in the process does without."""

import base64
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


def search_request(query: str | list[str] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a search. Arrays, of NumPy and its like, become base64 of float32 numbers."""
    body = {} if query is None else {"query": query}
    if (vector := options.get("vector")) is not None:
        return body | {**options, "vector": _vector(vector)}
    return body | {**options}


def _vector(vector: Any) -> Any:
    if hasattr(vector, "astype") and hasattr(vector, "ndim"):
        return list(map(_vector, vector)) if vector.ndim > 1 else _packed(vector)
    if isinstance(vector, Sequence) and not isinstance(vector, str):
        return [_vector(each) if getattr(each, "ndim", 0) else each for each in vector]
    return vector


def _packed(array: Any) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def render_query(parameters: Mapping[str, Any]) -> str:
    """Return the query of a URL. Raises InvalidArgument for text that UTF-8 cannot hold."""
    try:
        return urllib.parse.urlencode(parameters)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the request cannot be sent in a URL: {error}") from None
