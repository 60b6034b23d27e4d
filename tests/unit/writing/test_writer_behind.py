"""Two servers of one index: one has not seen yet what the other has written."""

from collections.abc import Iterator

import pytest

from shoal.errors import Conflict
from shoal.records import Passage
from shoal.writing.requests import Condition, Deleted, MetadataUpdate, PassageWrite, Updated, Written
from tests.support.writing import Writing

RED, BLUE = Passage("red", "a red fish"), Passage("blue", "a blue fish", metadata={"year": 2020})


def write(id_: str, text: str = "any text", condition: Condition | None = None) -> PassageWrite:
    return PassageWrite(id_, text, condition=condition)


@pytest.fixture
def writing() -> Iterator[Writing]:
    made = Writing([RED, BLUE])
    yield made
    made.writer.close()


@pytest.fixture
def behind(writing: Writing) -> Iterator[Writing]:
    """Another server, whose shards see no more of the log than they are asked for."""
    made = Writing([RED, BLUE], writing.log.entries)
    made.version.eager = False
    yield made
    made.writer.close()


async def test_what_changes_nothing_is_decided_at_the_end_of_the_log(writing: Writing, behind: Writing) -> None:
    """Another server has written what this one has not seen yet; nothing was appended that would have told of it."""
    await writing.write(write("red", "changed"), write("new", "another"))
    assert await behind.write(write("red", RED.text)) == Written(2, 1, 0)
    assert writing.state() == {"red": RED.text, "blue": BLUE.text, "new": "another"}
    await writing.write(write("newer", "one more"))
    assert await behind.delete("newer") == Deleted(4, 1)
    # And where nobody has written anything, it stays at that.
    assert await behind.delete("newer") == Deleted(4, 0)
    assert await behind.write(write("red", RED.text)) == Written(4, 0, 1)


async def test_a_condition_is_refused_by_the_end_of_the_log_alone(writing: Writing, behind: Writing) -> None:
    await writing.write(write("red", "changed"))
    assert await behind.write(write("red", "next", condition=Condition(1))) == Written(2, 1, 0)
    await writing.delete("red")
    first = await writing.write(write("red", condition=Condition(None)), key="k", body_digest="d")
    # The first server has died before its answer came.
    assert await behind.write(write("red", condition=Condition(None)), key="k", body_digest="d") == first
    with pytest.raises(Conflict, match="last written at position 4"):
        await behind.write(write("red", condition=Condition(None)))


async def test_an_update_finds_a_record_that_another_server_has_just_written(writing: Writing, behind: Writing) -> None:
    for number, key in enumerate((None, "k")):
        await writing.write(write(f"new-{number}", "another"))
        update = MetadataUpdate(f"new-{number}", {"year": 2021})
        assert await behind.update(update, key=key, body_digest="d") == Updated(2 * number + 2, 1, 0, [])
    assert await behind.update(MetadataUpdate("nobody", {"a": 1})) == Updated(4, 0, 0, ["nobody"])


async def test_an_update_in_a_namespace_misses_a_record_that_is_written_in_another(writing: Writing) -> None:
    await writing.write(write("new", "another"))
    update = MetadataUpdate("new", {"year": 2021})
    assert await writing.update(update, namespace="acme") == Updated(1, 0, 0, ["new"])
