"""What the tools answer; an assistant is told these shapes beforehand."""

from typing import Any

from pydantic import BaseModel, Field

from shoal.client.answers import FetchResponse, IndexDescription, SearchResponse, SearchResult


class ToolPassage(BaseModel):
    """A passage of the index."""

    id: str
    score: float | None = Field(None, description="What the results are ordered by; higher is better.")
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] = {}
    best_sentence: str | None = Field(None, description="The sentence with most words of the query.")


class ToolResults(BaseModel):
    """The passages that were found, best first."""

    index_version: str
    results: list[ToolPassage]
    reranked: bool = Field(description="Whether a reranker has ordered them.")
    degraded: str | None = Field(None, description="Why the answer is less than was asked for.")
    warnings: list[str] = Field([], description="What of the request was cut or corrected, and why nothing was found.")

    @classmethod
    def of(cls, response: SearchResponse) -> "ToolResults":
        """Make them of the answer to a search."""
        return cls(
            index_version=response.index_version,
            results=[_found(result) for result in response.results],
            reranked=response.reranked,
            degraded=response.degraded,
            warnings=response.warnings,
        )


class ToolPassages(BaseModel):
    """Passages by their ids, in the order asked."""

    index_version: str
    passages: list[ToolPassage]
    missing: list[str] = Field(description="Ids that the index does not hold.")
    unknown: list[str] = Field([], description="Ids of which it could not be told.")

    @classmethod
    def of(cls, response: FetchResponse) -> "ToolPassages":
        """Make them of fetched passages."""
        passages = [
            ToolPassage(id=found.id, title=found.title, text=found.text, metadata=found.metadata or {})
            for found in response.passages
        ]
        return cls(
            index_version=response.index_version,
            passages=passages,
            missing=response.missing,
            unknown=response.unknown,
        )


class ToolIndex(BaseModel):
    """What the index holds, and how it can be searched."""

    version: str
    passages: int
    fields: dict[str, str] = Field(description="Metadata fields that filters know, and their types.")
    modes: list[str] = Field(
        description="By vectors (dense), by words (lexical), by both (hybrid), by learned terms (sparse)."
    )
    encoder: str | None
    reranker: str | None

    @classmethod
    def of(cls, description: IndexDescription) -> "ToolIndex":
        """Make it of what a server tells of its index."""
        return cls(
            version=description.version,
            passages=description.passages,
            fields=description.fields,
            modes=description.modes,
            encoder=description.models.get("encoder"),
            reranker=description.models.get("reranker"),
        )


def _found(result: SearchResult) -> ToolPassage:
    return ToolPassage(
        id=result.id,
        score=result.score,
        title=result.title,
        text=result.text,
        metadata=result.metadata or {},
        best_sentence=result.highlight.text if result.highlight else None,
    )
