"""The calls of Pinecone's data plane over gRPC: a message each, the body of HTTP that it stands for, and its answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from serve.dialects.pinecone_api.answers import DataAnswer
from serve.dialects.pinecone_api.bodies import (
    FetchByMetadataFields,
    FetchFields,
    ListFields,
    ListNamespacesFields,
    NamespaceFields,
    QueryFields,
    StatsFields,
    VectorDeleteFields,
    VectorUpdateFields,
    VectorUpsertFields,
)
from serve.dialects.pinecone_api.control import ServedIndex
from serve.dialects.pinecone_api.data import (
    describe_passages,
    fetch_passages,
    fetch_passages_by_metadata,
    list_passages,
    query_passages,
)
from serve.dialects.pinecone_api.records import describe_namespace_of, list_namespaces_of
from serve.dialects.pinecone_api.writes import delete_namespace_of, delete_passages, update_passage, upsert_vectors
from serve.grpc_server.conversion import read_message, write_message
from shoal.engine.mistakes import explain_mistakes
from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument
from shoal.serving.keys import Scope

SERVICE = "VectorService"
"""The name of the service, which has no package before it."""
LARGE_BYTES = 65_536
"""Messages from this size on are read and written in a thread: it takes milliseconds."""
LARGE_VALUES = 20_000
"""Numbers of an answer from which on the same holds for it."""
DEGRADED = "degraded"
"""The field of a body over HTTP that says why an answer is less than what was asked for; here it goes beside it."""


@dataclass(frozen=True, slots=True)
class DataCall:
    """One call.

    Args:
        name: Of the call; its messages are called after it.
        scope: What a key must be good for.
        body: What is asked, as over HTTP.
        answer: Answers it within a deadline of `time.monotonic`.
    """

    name: str
    scope: Scope
    body: type[RequestBody]
    answer: Callable[[ServedIndex, Any, float], Awaitable[DataAnswer]]

    async def run(self, index: ServedIndex, data: bytes, deadline: float) -> tuple[bytes, dict[str, str]]:
        """Answer a message. Returns that of the answer, and what goes beside it."""
        large = len(data) >= LARGE_BYTES
        body = await asyncio.to_thread(self._read, data) if large else self._read(data)
        answer = await self.answer(index, body, deadline)
        fields, beside = dict(answer.body), dict(answer.headers)
        if (reason := fields.pop(DEGRADED, None)) is not None:
            beside[f"shoal-{DEGRADED}"] = str(reason)
        response = f"{self.name}Response"
        if answer.values >= LARGE_VALUES:
            return await asyncio.to_thread(write_message, response, fields), beside
        return write_message(response, fields), beside

    def _read(self, data: bytes) -> RequestBody:
        fields = read_message(f"{self.name}Request", data)
        try:
            return self.body.model_validate(fields)
        except ValidationError as error:
            message, param = explain_mistakes(list(error.errors()), fields)
            raise InvalidArgument(message, param=param) from None


async def _describe(index: ServedIndex, body: StatsFields, deadline: float) -> DataAnswer:
    return await describe_passages(index, body, deadline)


CALLS = (
    DataCall("Query", "read", QueryFields, query_passages),
    DataCall("Fetch", "read", FetchFields, fetch_passages),
    DataCall("FetchByMetadata", "read", FetchByMetadataFields, fetch_passages_by_metadata),
    DataCall("List", "read", ListFields, list_passages),
    DataCall("ListNamespaces", "read", ListNamespacesFields, list_namespaces_of),
    DataCall("DescribeNamespace", "read", NamespaceFields, describe_namespace_of),
    DataCall("DescribeIndexStats", "read", StatsFields, _describe),
    DataCall("Upsert", "write", VectorUpsertFields, upsert_vectors),
    DataCall("Update", "write", VectorUpdateFields, update_passage),
    DataCall("Delete", "write", VectorDeleteFields, delete_passages),
    DataCall("DeleteNamespace", "write", NamespaceFields, delete_namespace_of),
)
"""All calls that are answered."""
