"""What calls of the clients may be told beside what they ask for; what is left out has the server's default."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

InputType = Literal["query", "passage"]
"""What a text is to the encoder, which reads queries in another way than passages."""
Document = str | Mapping[str, str]
"""A document to score: its text, or an object with text, id and title."""


class EmbedOptions(TypedDict, total=False):
    """Options of `embed`."""

    include: Sequence[Literal["vector", "tokens"]]
    """What to return of each text; by default its vector."""
    dimensions: int
    """Only so many of the first dimensions, for models that were trained for it."""
    timeout_ms: int
    """Deadline at the server."""


class RerankOptions(TypedDict, total=False):
    """Options of `rerank`."""

    top_n: int
    """Results returned; by default one for each document."""
    return_documents: bool
    """Whether each result holds its document too."""
    timeout_ms: int
    """Deadline at the server."""
