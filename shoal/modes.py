"""The ways in which stage one searches, and which retrievers each of them uses."""

from collections.abc import Iterable, Mapping
from typing import Literal

Mode = Literal["dense", "lexical", "hybrid"]
"""How stage one searches: by vectors, by words, or by both."""
RETRIEVERS_OF: Mapping[Mode, tuple[str, ...]] = {
    "dense": ("dense",),
    "lexical": ("lexical",),
    "hybrid": ("dense", "lexical"),
}
"""The retrievers that each mode uses (`shoal.shard.retriever`)."""


def modes_of(retrievers: Iterable[str]) -> list[Mode]:
    """The modes that shards with these retrievers can answer."""
    present = set(retrievers)
    return [mode for mode, used in RETRIEVERS_OF.items() if present.issuperset(used)]
