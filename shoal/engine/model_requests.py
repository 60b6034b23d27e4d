"""What the models are asked for alone: texts to embed, documents to rerank, and what the answers say."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import ConfigDict, Discriminator, Field, Tag, create_model

from shoal.engine.request_body import RequestBody
from shoal.errors import InvalidArgument
from shoal.records import EmbeddedTexts, InputType, RerankedDocuments, ScoreScale, content_of, relevance_of
from shoal.settings import ServeSettings

EmbeddedPart = Literal["vector", "tokens"]
"""What an answer may hold of a text."""


class EmbedFields(RequestBody):
    """Texts, and which vectors of them to return; `embed_body` adds a server's limits."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": ["how do fish sleep"], "input_type": "query"}]}
    )

    inputs: list[str]
    input_type: InputType = Field(
        description="What the texts are: the encoder reads queries in another way than passages."
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Only so many of the first dimensions, normalised anew: for models that were trained for it. The "
        "vectors then fit no index of this encoder.",
    )
    include: list[EmbeddedPart] = Field(
        ["vector"],
        max_length=len(get_args(EmbeddedPart)),
        description="What to return of each text: its vector, and those of its tokens, as late interaction compares.",
    )
    timeout_ms: int

    @property
    def with_tokens(self) -> bool:
        """Whether the vectors of the tokens are wanted."""
        return "tokens" in self.include

    def check(self, dim: int) -> None:
        """Raise InvalidArgument for more dimensions than the encoder gives."""
        if self.dimensions is not None and self.dimensions > dim:
            raise InvalidArgument(
                f"dimensions should be at most {dim}, which the vectors of this encoder have, not {self.dimensions}",
                param="dimensions",
            )


class Document(RequestBody):
    """A text to score, with what the caller knows it by."""

    id: str | None = Field(None, description="Returned with the score.")
    title: str | None = Field(None, description="Read before the text.")
    text: str

    @property
    def content(self) -> str:
        """What the reranker reads."""
        return content_of(self.title, self.text)


GivenDocument = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Document, Tag("<document>")],
    Discriminator(
        lambda value: {str: "<text>", dict: "<document>", Document: "<document>"}.get(type(value)),
        custom_error_type="document",
        custom_error_message="should be a text, or an object with a text",
    ),
]
"""A document, as a text or with id and title; the error of another value names both."""


class RerankFields(RequestBody):
    """A query and documents, and how many to return; `rerank_body` adds a server's limits."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "how do fish sleep",
                    "documents": ["Most fish rest with open eyes.", {"id": "bats", "text": "Bats hang."}],
                    "top_n": 1,
                }
            ]
        }
    )

    query: str
    documents: list[GivenDocument]
    top_n: int | None
    return_documents: bool = Field(False, description="Return the text and the title of each result too.")
    timeout_ms: int

    @property
    def texts(self) -> list[str]:
        """What the reranker reads of each document."""
        return [document if isinstance(document, str) else document.content for document in self.documents]


def embed_body(settings: ServeSettings) -> type[EmbedFields]:
    """Make the model of the body that embeds texts, with the limits of the settings."""
    inputs = Field(
        min_length=1,
        max_length=settings.max_vectors,
        description=f"Texts. A query may have {settings.max_query_bytes:,} bytes of UTF-8.",
        examples=[["how do fish sleep"]],
    )
    return create_model(
        "EmbedBody",
        __base__=EmbedFields,
        __doc__="Texts, and which vectors of them to return.",
        inputs=(list[str], inputs),
        timeout_ms=(int, _timeout(settings)),
    )


def rerank_body(settings: ServeSettings) -> type[RerankFields]:
    """Make the model of the body that reranks documents, with the limits of the settings."""
    query = Field(
        min_length=1,
        max_length=settings.max_query_bytes,
        description="What the documents are compared with.",
        examples=["how do fish sleep"],
    )
    documents = Field(
        min_length=1,
        max_length=settings.max_top_k,
        description="Texts, or objects with text, id and title.",
        examples=[["Most fish rest with open eyes.", "Bats hang."]],
    )
    top_n = Field(None, ge=1, le=settings.max_top_k, description="Results returned. Left out: all documents.")
    return create_model(
        "RerankBody",
        __base__=RerankFields,
        __doc__="A query and documents, and how many to return.",
        query=(str, query),
        documents=(list[GivenDocument], documents),
        top_n=(int | None, top_n),
        timeout_ms=(int, _timeout(settings)),
    )


def embed_parts(embedded: EmbeddedTexts, body: EmbedFields) -> Iterator[dict[str, Any]]:
    """Yield what the answer says of each text."""
    vectors = None
    if "vector" in body.include:
        vectors = embedded.shortened(body.dimensions) if body.dimensions else embedded.vectors
    for row, truncated in enumerate(embedded.truncated):
        part: dict[str, Any] = {}
        if vectors is not None:
            part["vector"] = vectors[row].tolist()
        if embedded.token_vectors is not None:
            part["tokens"] = embedded.token_vectors[row].tolist()
        yield part | {"truncated": truncated}


def embed_fields(embedded: EmbeddedTexts, body: EmbedFields) -> dict[str, Any]:
    """Return the fields of an answer beside `data`. Raises InvalidArgument for more dimensions than there are."""
    body.check(embedded.vectors.shape[1])
    return {
        "model": embedded.model,
        "dim": body.dimensions or embedded.vectors.shape[1],
        "usage": {"texts": len(embedded.vectors), "tokens": embedded.tokens_used},
    }


def rerank_fields(reranked: RerankedDocuments, body: RerankFields, scale: ScoreScale | None) -> dict[str, Any]:
    """Return the fields of an answer: the best documents first, those of equal scores in the order given.

    scale: where the scores of the reranker lie, None if that is not known.
    """
    relevance = relevance_of(reranked.scores, scale)
    order: Sequence[int] = np.argsort(-reranked.scores, kind="stable")[: body.top_n].tolist()
    return {
        "model": reranked.model,
        "results": [
            {
                "index": position,
                **_result(body.documents[position], float(reranked.scores[position]), body),
                "relevance_score": float(relevance[position]),
            }
            for position in order
        ],
        "usage": {"pairs": reranked.pairs, "tokens": reranked.tokens_used},
    }


def _result(document: str | Document, score: float, body: RerankFields) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    given = Document(text=document) if isinstance(document, str) else document
    if given.id is not None:
        fields["id"] = given.id
    fields["score"] = score
    if body.return_documents:
        fields["document"] = ({"title": given.title} if given.title is not None else {}) | {"text": given.text}
    return fields


def _timeout(settings: ServeSettings) -> Any:
    return Field(
        min(settings.timeout_ms, settings.max_timeout_ms),
        ge=1,
        le=settings.max_timeout_ms,
        description="Deadline, after which the status is 504.",
    )
