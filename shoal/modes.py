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

BUILD_OPTION_OF: Mapping[str, str] = {"lexical": "--lexical"}
"""The option of a build that gives a version a retriever; one that is not named here comes with every build."""


def how_to_build(retriever: str) -> str:
    """Say how a version comes by a retriever that it has not."""
    option = BUILD_OPTION_OF.get(retriever)
    return f"build it with {option}" if option else "build it again"


def modes_of(retrievers: Iterable[str]) -> list[Mode]:
    """The modes that shards with these retrievers can answer."""
    present = set(retrievers)
    return [mode for mode, used in RETRIEVERS_OF.items() if present.issuperset(used)]
