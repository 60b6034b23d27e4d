"""The course of a write: what is logged, what is answered, and what others do meanwhile."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shoal.errors import Conflict, DeadlineExceeded, InvalidArgument, KeyReused, Overloaded, Unavailable
from shoal.index_root.log_entry import RetiredState
from shoal.late.codec import Codec
from shoal.records import Passage
from shoal.testing.fakes import DIM, vector_of
from shoal.testing.writes import ANALYZER, MemoryVersion
from shoal.writing.requests import Condition, Deleted, MetadataUpdate, PassageWrite, Updated, Written
from tests.support.writing import Writing, manifest

RED, BLUE = Passage("red", "a red fish"), Passage("blue", "a blue fish", metadata={"year": 2020})


def write(id_: str, text: str | None = "any text", **fields: Any) -> PassageWrite:
    return PassageWrite(id_, text, **fields)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)


@pytest.fixture
def writing() -> Iterator[Writing]:
    made = Writing([RED, BLUE])
    yield made
    made.writer.close()


async def test_what_is_written_is_one_entry_with_all_that_a_shard_holds(writing: Writing) -> None:
    answer = await writing.write(write("green", "a green, green fish", title="Fish", metadata={"year": 2021}))
    assert answer == Written(position=1, written=1, unchanged=0)
    (entry,) = writing.log.read()
    (document,) = entry.documents
    (passage,) = document.passages
    assert (entry.position, document.document, document.retired) == (1, "green", RetiredState({}, 0, 0))
    assert (passage.id, passage.text, passage.title) == ("green", "a green, green fish", "Fish")
    assert passage.metadata == {"year": 2021}
    np.testing.assert_array_equal(passage.vector, vector_of("Fish a green, green fish"))
    terms = ANALYZER.terms("Fish a green, green fish")
    assert passage.terms == {term: terms.count(term) for term in terms}
    assert passage.length == len(terms) == 4
    assert entry.encoder == writing.version.manifest.encoder.digest
    assert entry.analyzer is not None


async def test_what_a_write_replaces_leaves_the_statistics(writing: Writing) -> None:
    await writing.write(write("red", "a red red fish, and a fox"))
    await writing.delete("red")
    first, second = (entry.documents[0] for entry in writing.log.read())
    old, new = set(ANALYZER.terms(RED.text)), ANALYZER.terms("a red red fish, and a fox")
    assert first.retired == RetiredState(dict.fromkeys(old, 1), 2, 1)
    assert second.retired == RetiredState(dict.fromkeys(new, 1), len(new), 1)
    assert second.passages == ()


async def test_unchanged_content_keeps_its_vector_and_unchanged_records_are_not_written(writing: Writing) -> None:
    answer = await writing.write(
        write("red", RED.text), write("blue", BLUE.text, metadata={"year": 2021}), write("new", "something else")
    )
    assert answer == Written(position=1, written=2, unchanged=1)
    assert writing.encoder.calls == [["something else"]]
    assert await writing.write(write("red", RED.text)) == Written(position=1, written=0, unchanged=1)
    assert len(writing.log.entries) == 1


async def test_a_record_brings_its_vector(writing: Writing) -> None:
    given = np.arange(1, DIM + 1) * 1e30
    await writing.write(write("red", RED.text, vector=given.tolist()), write("bare", None, vector=[1] * DIM))
    first, second = (document.passages[0] for document in writing.log.read()[0].documents)
    np.testing.assert_allclose(first.vector, given / np.linalg.norm(given), rtol=1e-6)
    assert (second.text, second.terms, second.length) == ("", {}, 0)
    assert writing.encoder.calls == []
    assert (await writing.write(write("red", RED.text, vector=given.tolist()))).unchanged == 1


async def test_every_bad_record_is_named_and_nothing_written(writing: Writing) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await writing.write(write("a"), write("b", " "), write("", "x"), write("d", vector=[1, 2]), write("a", "again"))
    message = refused.value.message
    for part in (
        "passages[1] (id 'b')",
        "passages[2] (id '')",
        "passages[3] (id 'd'): the vector has 2",
        "[4] (id 'a')",
    ):
        assert part in message
    assert "passages[0] (" not in message
    assert refused.value.param == "passages[1]"
    assert writing.log.entries == []


async def test_deletions_by_ids_count_what_was_there(writing: Writing) -> None:
    assert await writing.delete("red", "nothing", "red") == Deleted(position=1, deleted=1)
    assert await writing.delete("red") == Deleted(position=1, deleted=0)
    assert writing.state() == {"blue": BLUE.text}
    assert await writing.write(write("red", "again")) == Written(2, 1, 0)
    assert writing.log.read()[1].documents[0].retired.passages == 0


async def test_deletions_by_a_filter_are_logged_as_ids(writing: Writing) -> None:
    await writing.write(*(write(f"n{number}", f"text {number}", metadata={"year": 2020}) for number in range(3)))
    assert await writing.select(("year", 2020)) == Deleted(position=2, deleted=4)
    assert writing.state() == {"red": RED.text}
    assert [document.document for document in writing.log.read()[1].documents] == ["blue", "n0", "n1", "n2"]
    assert await writing.select() == Deleted(position=3, deleted=1)


async def test_a_deletion_by_a_filter_says_whether_there_are_more(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.writing.prepare.MOST_SELECTED", 1)
    assert await writing.select() == Deleted(position=1, deleted=1, more=True)
    assert await writing.select() == Deleted(position=2, deleted=1, more=False)


async def test_metadata_is_merged_or_replaced_and_nothing_encoded(writing: Writing) -> None:
    answer = await writing.update(
        MetadataUpdate("blue", {"lang": "en", "year": None}), MetadataUpdate("gone", {"a": 1})
    )
    assert answer == Updated(position=1, updated=1, unchanged=0, missing=["gone"])
    (passage,) = writing.log.read()[0].documents[0].passages
    assert (passage.metadata, passage.text) == ({"lang": "en"}, BLUE.text)
    np.testing.assert_array_equal(passage.vector, vector_of(BLUE.text))
    assert await writing.update(MetadataUpdate("blue", {"a": 1}, merge=False)) == Updated(2, 1, 0, [])
    assert writing.log.read()[1].documents[0].passages[0].metadata == {"a": 1}
    assert await writing.update(MetadataUpdate("blue", {"a": 1})) == Updated(2, 0, 1, [])
    assert writing.encoder.calls == []


@pytest.mark.parametrize(
    ("condition", "id_", "reason"),
    [
        (Condition(None), "red", "it should be absent, and was last written at position 0"),
        (Condition(1), "red", "it should be of position 1, and was last written at position 0"),
        (Condition(0), "green", "it should be of position 0, and is absent"),
    ],
)
async def test_a_condition_that_does_not_hold_stops_the_whole_request(
    writing: Writing, condition: Condition, id_: str, reason: str
) -> None:
    with pytest.raises(Conflict) as refused:
        await writing.write(write("other"), write(id_, condition=condition))
    assert refused.value.message == f"nothing was written: passages[1] (id '{id_}'): {reason}"
    assert writing.log.entries == []


async def test_conditions_that_hold(writing: Writing) -> None:
    assert (await writing.write(write("red", "new", condition=Condition(0)))).written == 1
    assert (await writing.write(write("red", "newer", condition=Condition(1)))).written == 1
    assert (await writing.write(write("green", condition=Condition(None)))).written == 1
    await writing.delete("red")
    assert (await writing.write(write("red", condition=Condition(None)))).written == 1


async def test_a_repeated_key_gets_the_same_answer_and_another_body_is_refused(writing: Writing) -> None:
    first = await writing.write(write("green"), key="k1", body_digest="d1")
    await writing.write(write("green", "other"))
    again = await writing.write(write("green"), key="k1", body_digest="d1")
    assert first == again == Written(1, 1, 0)
    with pytest.raises(KeyReused) as refused:
        await writing.write(write("green"), key="k1", body_digest="d2")
    assert refused.value.param == "Idempotency-Key"
    # What changes nothing has an answer to repeat too.
    same = await writing.write(write("green", "other"), key="k2", body_digest="d")
    await writing.write(write("green", "another"))
    assert await writing.write(write("green", "other"), key="k2", body_digest="d") == same == Written(3, 0, 1)
    assert writing.state()["green"] == "another"


async def test_a_key_is_known_to_a_writer_that_comes_later(writing: Writing) -> None:
    await writing.delete("red", key="k1", body_digest="d1")
    other = Writing([RED, BLUE], writing.log.entries)
    other.log.catch_up(other.writer._apply)
    assert await other.delete("red", key="k1", body_digest="d1") == Deleted(1, 1)
    # One that learns of it only when it appends gives the same answer.
    late = Writing([RED, BLUE], writing.log.entries)
    assert await late.delete("red", key="k1", body_digest="d1") == Deleted(1, 1)
    assert len(writing.log.entries) == 1


async def test_requests_that_wait_together_share_an_entry_in_their_order(writing: Writing) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        writing.log.before_create = lambda: None
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    writing.log.before_create = hold
    first = asyncio.ensure_future(writing.write(write("a", "zero")))
    await started.wait()
    texts = ["one", "two", "two", "three"]
    rest = [asyncio.ensure_future(writing.write(write("a", text, condition=None))) for text in texts]
    rest.append(asyncio.ensure_future(writing.write(write("b", condition=Condition(None)))))
    rest.append(asyncio.ensure_future(writing.write(write("b", "late", condition=Condition(None)))))
    await until(lambda: writing.writer._groups.waiting == len(rest))
    release.set()
    assert await first == Written(1, 1, 0)
    *answers, conflict = await asyncio.gather(*rest, return_exceptions=True)
    assert answers == [Written(2, 1, 0), Written(2, 1, 0), Written(1, 0, 1), Written(2, 1, 0), Written(2, 1, 0)]
    assert isinstance(conflict, Conflict)
    assert len(writing.log.entries) == 2
    documents = writing.log.read()[1].documents
    assert [document.passages[0].text for document in documents] == ["one", "two", "three", "any text"]
    # Each retires what the one before it has left.
    assert [list(document.retired.terms) for document in documents] == [["zero"], ["one"], ["two"], []]


async def test_requests_of_much_metadata_do_not_share_an_entry(writing: Writing) -> None:
    """An entry has a greatest size, and beyond it all that share it were refused, for what others had sent."""
    started, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        writing.log.before_create = lambda: None
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    writing.log.before_create = hold
    first = asyncio.ensure_future(writing.write(write("a")))
    await started.wait()
    note = "n" * 900_000
    rest = [
        asyncio.ensure_future(writing.write(*(write(f"{name}{part}", metadata={"note": note}) for part in range(5))))
        for name in "bc"
    ]
    await until(lambda: writing.writer._groups.waiting == len(rest))
    release.set()
    assert [answer.position for answer in await asyncio.gather(first, *rest)] == [1, 2, 3]


async def test_after_a_lost_race_everything_is_decided_again(writing: Writing) -> None:
    other = Writing([RED, BLUE], writing.log.entries)

    def meanwhile() -> None:
        writing.log.before_create = lambda: None
        asyncio.run_coroutine_threadsafe(
            other.write(write("green", "of another"), write("red", "changed")), loop
        ).result()

    loop = asyncio.get_running_loop()
    writing.log.before_create = meanwhile
    with pytest.raises(Conflict, match="last written at position 1"):
        await writing.write(write("green", condition=Condition(None)))
    assert writing.log.lost_races == 1
    writing.log.before_create = lambda: None
    await writing.write(write("red", "mine"))
    assert writing.log.read()[1].documents[0].retired == RetiredState({"chang": 1}, 1, 1)


async def test_an_update_whose_record_changes_meanwhile_is_made_from_the_new_one(writing: Writing) -> None:
    other = Writing([RED, BLUE], writing.log.entries)
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        writing.log.before_create = lambda: None
        asyncio.run_coroutine_threadsafe(other.write(write("blue", "rewritten", metadata={"a": 1})), loop).result()

    writing.log.before_create = meanwhile
    assert await writing.update(MetadataUpdate("blue", {"b": 2})) == Updated(2, 1, 0, [])
    (passage,) = writing.log.read()[1].documents[0].passages
    assert (passage.text, passage.metadata) == ("rewritten", {"a": 1, "b": 2})


async def test_shards_that_are_behind_are_not_waited_for() -> None:
    writing = Writing([RED, BLUE])
    writing.version.eager = False
    await writing.write(write("red", "one"))
    await writing.write(write("red", "two"))
    await writing.update(MetadataUpdate("red", {"a": 1}))
    assert writing.version.position == 0
    last = writing.log.read()[-1].documents[0]
    assert (last.passages[0].text, last.passages[0].metadata) == ("two", {"a": 1})
    assert last.retired.terms == {"two": 1}


async def test_what_a_writer_does_not_keep_shards_are_waited_for() -> None:
    writing = Writing([RED, BLUE], recent_bytes=0)
    writing.version.eager = False
    await writing.write(write("red", "one"))
    assert writing.writer._recent.get("red") is None
    await writing.write(write("red", "two"))
    assert writing.version.position == 1
    assert writing.log.read()[-1].documents[0].retired.terms == {"one": 1}


async def test_a_version_that_becomes_served_meanwhile_is_written_for(writing: Writing) -> None:
    other = MemoryVersion(manifest(chunk_characters=50), [], writing.log)

    async def switch() -> None:
        writing.served = other

    writing.version.behaviour.hook = switch
    await writing.write(write("long", "many words " * 10))
    ids = [passage.id for passage in writing.log.read()[0].documents[0].passages]
    assert ids == ["long#1", "long#2", "long#3"]


async def test_more_writes_than_may_be_under_way_are_refused() -> None:
    writing = Writing([RED], max_requests=1)
    release = asyncio.Event()
    writing.encoder.behaviour.hook = lambda: release.wait()  # type: ignore[assignment, return-value]
    first = asyncio.ensure_future(writing.write(write("a")))
    await until(lambda: bool(writing.encoder.calls))
    with pytest.raises(Overloaded) as refused:
        await writing.write(write("b"))
    assert refused.value.retry_after_s == 1
    release.set()
    assert (await first).written == 1
    assert (await writing.write(write("b"))).written == 1


async def test_a_log_that_is_not_reached_is_said_and_nothing_lost(writing: Writing) -> None:
    writing.log.errors = [Unavailable("no disk", retry_after_s=1)]
    with pytest.raises(Unavailable, match="no disk"):
        await writing.write(write("a"))
    assert await writing.write(write("a")) == Written(1, 1, 0)


async def test_nobody_waits_for_copies_of_the_log_and_one_is_made_at_a_time(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = [], threading.Event()

    def copy(is_wanted: Callable[[], bool]) -> None:
        begun.append(len(writing.log.entries))
        may_end.wait()

    monkeypatch.setattr(writing.log, "write_segments", copy)
    assert await writing.write(write("a")) == Written(1, 1, 0)
    await until(lambda: begun == [1])
    assert await writing.write(write("b")) == Written(2, 1, 0)
    assert begun == [1]
    may_end.set()
    copies = writing.writer._copies
    assert copies is not None
    await asyncio.wrap_future(copies)
    await writing.write(write("c"))
    await until(lambda: begun == [1, 3])


async def test_a_write_that_was_not_confirmed_in_time_is_told_how_to_be_repeated(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = writing.writer._groups.submit

    async def too_late(request: Any, deadline: float) -> Any:
        await submit(request, deadline)
        raise DeadlineExceeded("the log had not answered")

    monkeypatch.setattr(writing.writer._groups, "submit", too_late)
    with pytest.raises(DeadlineExceeded, match="the same Idempotency-Key, which writes nothing twice"):
        await writing.write(write("a"), key="k", body_digest="d")
    assert await writing.write(write("a"), key="k", body_digest="d") == Written(1, 1, 0)
    assert len(writing.log.entries) == 1


async def test_token_codes_are_made_and_copied() -> None:
    axes = np.eye(4, DIM, dtype=np.float32)
    codec = Codec(axes, np.zeros(4, np.float32), np.full(4, 0.1, np.float32), 8)
    writing = Writing([RED], codec=codec)
    await writing.write(write("new", "three small words"), write("red", RED.text, vector=[1] * DIM))
    first, second = (document.passages[0] for document in writing.log.read()[0].documents)
    words = np.stack([vector_of(word) for word in ("three", "small", "words")])
    np.testing.assert_array_equal(first.codes, codec.encode(words))
    assert second.codes is not None
    assert len(second.codes) == 3
    np.testing.assert_allclose(second.vector, np.full(DIM, DIM**-0.5), rtol=1e-6)
    assert writing.log.read()[0].codec == codec.digest
    calls = len(writing.encoder.calls)
    await writing.update(MetadataUpdate("new", {"a": 1}))
    np.testing.assert_array_equal(writing.log.read()[1].documents[0].passages[0].codes, first.codes)
    assert len(writing.encoder.calls) == calls


async def test_too_much_that_is_not_compacted_is_refused_but_what_was_written_is_answered() -> None:
    excess: str | None = None
    writing = Writing([RED, BLUE], excess=lambda: excess)
    first = await writing.write(write("a"), key="k", body_digest="b")
    excess = "7 passages are not compacted yet"
    for refused in (writing.write(write("c")), writing.delete("red"), writing.update(MetadataUpdate("red", {"a": 1}))):
        with pytest.raises(Overloaded, match="7 passages are not compacted yet; run `shoal compact`") as error:
            await refused
        assert error.value.retry_after_s
    assert await writing.write(write("a"), key="k", body_digest="b") == first
    excess = None
    assert (await writing.write(write("c"))).written == 1
    writing.writer.close()
