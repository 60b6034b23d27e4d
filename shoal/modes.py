"""The ways in which stage one searches, and which retrievers each of them uses."""

from collections.abc import Iterable, Mapping
from typing import Literal

Mode = Literal["dense", "lexical", "hybrid", "sparse"]
"""How stage one searches: by vectors, by words, by both and all else that a version has, or by learned terms."""
RETRIEVERS_OF: Mapping[Mode, tuple[str, ...]] = {
    "dense": ("dense",),
    "lexical": ("lexical",),
    "hybrid": ("dense", "lexical"),
    "sparse": ("sparse",),
}
"""The retrievers that each mode needs (`shoal.shard.retriever`)."""
_WHERE_PRESENT: Mapping[str, tuple[str, ...]] = {"hybrid": ("sparse",)}
"""Further ones that a mode uses where a version has them."""

BUILD_OPTION_OF: Mapping[str, str] = {"lexical": "--lexical", "sparse": "--sparse-encoder"}
"""The option of a build that gives a version a retriever; one that is not named here comes with every build."""


def retrievers_of(mode: Mode, present: Iterable[str]) -> tuple[str, ...]:
    """The retrievers that a mode uses of a version that has these; those that it needs are named in any case."""
    if mode not in _WHERE_PRESENT:
        return RETRIEVERS_OF[mode]
    further = set(present).intersection(_WHERE_PRESENT[mode])
    return (*RETRIEVERS_OF[mode], *(name for name in _WHERE_PRESENT.get(mode, ()) if name in further))


def how_to_build(retriever: str) -> str:
    """Say how a version comes by a retriever that it has not."""
    option = BUILD_OPTION_OF.get(retriever)
    return f"build it with {option}" if option else "build it again"


def modes_of(retrievers: Iterable[str]) -> list[Mode]:
    """The modes that shards with these retrievers can answer."""
    present = set(retrievers)
    return [mode for mode, used in RETRIEVERS_OF.items() if present.issuperset(used)]
