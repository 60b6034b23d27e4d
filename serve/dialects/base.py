"""The contract between a dialect and the server behind it."""

from collections.abc import Sequence
from typing import Protocol

from shoal.engine.description import IndexDescription
from shoal.index_root.version_list import ListedVersion
from shoal.namespaces import DEFAULT
from shoal.records import (
    EmbeddedTexts,
    FetchedPassages,
    InputType,
    ListedIds,
    ListedNamespaces,
    RerankedDocuments,
    ScoreScale,
    SearchAnswer,
    SearchRequest,
)
from shoal.writing.requests import Deleted, DeleteRequest, Updated, UpdateRequest, WriteRequest, Written


class AnsweringEngine(Protocol):
    """What answers the requests of an index.

    Every method may raise Unavailable and DeadlineExceeded; those that compute raise Overloaded too, and
    InvalidArgument for what is beyond the limits of the settings, so that a dialect need not check them. Deadlines are
    by `time.monotonic`.
    """

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer the queries of one HTTP request, in order."""
        ...

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return what the encoder makes of texts, in input order.

        `vectors` is float32 (n, dim), L2-normalised, what the index compares; `truncated` tells of each text whether
        only its beginning was read; `tokens_used` counts what was read of all; `model` names the encoder. No texts
        have no vectors.

        Args:
            texts: As many as `max_vectors`; queries as long as `max_query_bytes` each, passages as `max_body_bytes`
                together.
            input_type: What they are; the encoder's prompt for it is applied.
            deadline: Of the whole.
            with_tokens: Whether `token_vectors` is wanted, of each text float (t, d).

        Raises:
            InvalidArgument: With `param` inputs or `inputs[3]`; with include for tokens of an encoder without any.
        """
        ...

    async def rerank(self, query: str, documents: Sequence[str], deadline: float) -> RerankedDocuments:
        """Return what the reranker makes of documents, in input order.

        `scores` is float32 (n,), higher is better; `tokens_used` counts what was read of query and documents; `model`
        names the reranker. No documents have no scores.

        Args:
            query: As long as `max_query_bytes`.
            documents: As many as `max_top_k`, as long as `max_body_bytes` together.
            deadline: Of the whole.

        Raises:
            InvalidArgument: With `param` query, documents or `documents[3]`; with none where there is no reranker.
        """
        ...

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Return passages by their ids, in the order asked, and the ids that there are none of."""
        ...

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """Return a page of the ids that begin with a prefix, in the order of their UTF-8 bytes.

        Args:
            cursor: `next` of the page before; None for the first page.
        """
        ...

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """Return a page of the namespaces whose names begin with a prefix, in order; as `list_ids`."""
        ...

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Return how many passages a namespace has."""
        ...

    async def write(self, request: WriteRequest) -> Written:
        """Write records, each in the place of the one with its id: all of them durably, or none.

        Raises:
            InvalidArgument: Names every record at fault.
            Conflict: A condition does not hold, or the version was built before records could be written.
            KeyReused: The key belongs to another request.
            DeadlineExceeded: It may have been written; the same request may be repeated with its key.
        """
        ...

    async def delete(self, request: DeleteRequest) -> Deleted:
        """Delete records. Raises as `write`."""
        ...

    async def update(self, request: UpdateRequest) -> Updated:
        """Change metadata or vectors of records. Raises as `write`."""
        ...


class Engine(AnsweringEngine, Protocol):
    """What a dialect can ask of the server behind it."""

    async def describe(self) -> IndexDescription:
        """Describe what is served."""
        ...

    async def list_versions(self, limit: int) -> list[ListedVersion]:
        """List the newest published versions, newest first, and the current and the previous one with them.

        Args:
            limit: Most versions beside those two.
        """
        ...

    def reranker_scale(self) -> ScoreScale | None:
        """Where the scores of the reranker lie, for those who want them from 0 to 1 (`shoal.records.relevance_of`).

        None if there is no reranker, or if that is not known.
        """
        ...

    async def text_field(self) -> str:
        """The field that holds the text of records, for clients that keep it among their metadata.

        `text` before a version is served.
        """
        ...

    async def activate(self, version: str) -> None:
        """Serve another published version; returns when it is served.

        Raises NotFound for an unknown version, Conflict (EncoderMismatch, CorruptIndex) for one that cannot be served.
        """
        ...

    async def rollback(self) -> None:
        """Serve the previous version again; returns when it is served. Raises Conflict when there is none."""
        ...

    async def ready(self) -> list[str]:
        """Name what is missing until every shard of the active version can be searched; empty means ready."""
        ...
