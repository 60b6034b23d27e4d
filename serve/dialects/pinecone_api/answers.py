"""What a call of Pinecone's data plane is answered, whatever carries it: HTTP, or gRPC (`serve.grpc_server`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response

from serve.dialects.common.calls import large_json_answer

COMMITTED = "x-pinecone-lsn-committed"
"""The header in which Pinecone's clients find the position of a write in the log."""
RECONCILED = "x-pinecone-lsn-reconciled"
"""The header in which Pinecone's clients find up to which position of the log a search has seen all writes."""


@dataclass(frozen=True, slots=True)
class DataAnswer:
    """An answer before it has a form.

    Args:
        body: Its fields as JSON names them; vectors are arrays of NumPy.
        values: How many numbers of vectors it holds, or other things where it holds none.
        headers: What goes beside it.
    """

    body: dict[str, Any]
    values: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


async def http_response(answer: DataAnswer) -> Response:
    """Build the response that carries an answer."""
    response = await large_json_answer(answer.body, answer.values)
    response.headers.update(answer.headers)
    return response
