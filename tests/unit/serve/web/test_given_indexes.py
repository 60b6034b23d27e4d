"""The indexes that a server was started with: what is told of each, and that none is made or removed."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from serve.web.indexes import GivenIndexes, Indexes
from shoal.errors import InvalidArgument, NotFound, Unavailable


class Starting:
    """An engine that serves no version yet."""

    async def describe(self) -> Any:
        raise Unavailable("the index version is being loaded")


async def lacking() -> list[str]:
    return ["birds: the index version is being loaded"]


async def test_an_index_that_starts_hides_no_other_and_none_is_made_or_removed() -> None:
    engines: Mapping[str, Any] = {"articles": Starting(), "birds": Starting()}
    source = GivenIndexes(lambda: engines, list(engines), lacking)
    summaries = await source.summaries(lambda name: True)
    assert [(each.name, each.state, each.problem) for each in summaries] == [
        (name, "loading", "the index version is being loaded") for name in engines
    ]
    assert [each.name for each in await source.summaries(lambda name: name == "birds")] == ["birds"]
    indexes = Indexes(source)
    assert (indexes.name, indexes.named("birds"), await indexes.ready()) == (
        "articles",
        engines["birds"],
        await lacking(),
    )
    with pytest.raises(NotFound):
        indexes.named("nothing")
    with pytest.raises(InvalidArgument, match="no catalog"):
        await indexes.remove("birds")
    with pytest.raises(InvalidArgument, match="no catalog"):
        await indexes.create(SimpleNamespace(name="new"))  # type: ignore[arg-type]
