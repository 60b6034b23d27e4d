"""What a search looks for: texts, vectors, or what is like a passage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.engine.vectors import GivenVector, read_vectors
from shoal.errors import InvalidArgument
from shoal.records import FloatArray


@dataclass(frozen=True, slots=True)
class Subject:
    """What one query looks for.

    query: its text; "" where there is none.
    vector: float32 (dim,), L2-normalised, by which stage one searches instead of that of the text; None for none.
    passage_id: of the passage by whose vector it does, and which is left out of the answer; None for none.
    """

    query: str
    vector: FloatArray | None = None
    passage_id: str | None = None

    def fields(self) -> dict[str, Any]:
        """By the names that a `SearchRequest` has for them."""
        return {"query": self.query, "vector": self.vector, "passage_id": self.passage_id}


def read_subjects(
    query: str | Sequence[str] | None, vector: GivenVector | Sequence[GivenVector] | None, passage_id: str | None
) -> list[Subject]:
    """Return what the queries of one request look for, in order.

    Raises InvalidArgument for a request that says nothing, or what does not go together.
    """
    if query is None and vector is None and passage_id is None:
        raise InvalidArgument("query is required, or else vector or id", param="query")
    if passage_id is not None:
        return [_like(query, vector, passage_id)]
    if vector is None:
        return [Subject(text) for text in _texts(query)]
    vectors, are_several = read_vectors(vector)
    if query is None:
        return [Subject("", each) for each in vectors]
    texts = _texts(query)
    if isinstance(query, str) == are_several or len(texts) != len(vectors):
        wanted = "one vector" if isinstance(query, str) else f"a list of {len(texts)}, one for each query"
        raise InvalidArgument(f"vector should be {wanted}; or leave query out", param="vector")
    return [Subject(text, each) for text, each in zip(texts, vectors, strict=True)]


def _like(query: str | Sequence[str] | None, vector: object, passage_id: str) -> Subject:
    if vector is not None:
        raise InvalidArgument("id and vector both say what stage one searches by; leave one of them out", param="id")
    if query is not None and not isinstance(query, str):
        raise InvalidArgument("id goes with one query at most; ask for several in requests of their own", param="id")
    return Subject(query or "", passage_id=passage_id)


def _texts(query: str | Sequence[str] | None) -> Sequence[str]:
    return [query] if isinstance(query, str) else query or ()
