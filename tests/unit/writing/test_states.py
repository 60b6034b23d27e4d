"""What a writer keeps of the latest entries, and for how long."""

from dataclasses import replace

from shoal.index_root.log_entry import RetiredState
from shoal.shard.stored_documents import StoredDocument
from shoal.writing.states import RecentWrites, written_document
from tests.support.log_entries import delete, entry, upsert


def texts(state: StoredDocument | None) -> list[str] | None:
    return None if state is None else [stored.passage.text for stored in state.passages]


def test_the_last_write_of_a_document_is_its_state() -> None:
    recent = RecentWrites(0)
    recent.add(entry(1, [upsert("a", "first"), upsert("b"), upsert("a", "second")]))
    recent.add(entry(2, [delete("b")]))
    assert recent.position == 2
    assert texts(recent.get("a")) == ["second"]
    assert texts(recent.get("b")) == []
    assert recent.get("c") is None


def test_an_overlay_prefers_what_was_written_last() -> None:
    recent = RecentWrites(4)
    recent.add(entry(5, [upsert("a", "recent"), delete("gone")]))
    stored = {
        name: written_document(upsert(name, "stored"), position)
        for name, position in (("a", 4), ("b", 0), ("gone", 3), ("ahead", 6))
    }
    states = recent.overlay(["a", "b", "gone", "nothing", "ahead"], stored)
    assert {name: texts(state) for name, state in states.items()} == {
        "a": ["recent"], "b": ["stored"], "gone": [], "ahead": ["stored"],
    }  # fmt: skip
    ahead = {"a": written_document(upsert("a", "ahead"), 6)}
    assert texts(recent.overlay(["a"], ahead)["a"]) == ["ahead"]


def test_the_oldest_go_first_once_there_is_too_much() -> None:
    recent = RecentWrites(0, max_bytes=1000)
    for position in range(1, 6):
        recent.add(entry(position, [upsert(f"d{position}"), upsert("always", f"text of {position}")]))
    kept = [position for position in range(1, 6) if recent.get(f"d{position}") is not None]
    assert kept == [4, 5]
    assert texts(recent.get("always")) == ["text of 5"]
    with recent.hold() as position:
        assert position == 3


def test_metadata_count_too() -> None:
    recent = RecentWrites(0, max_bytes=10_000)
    for position in range(1, 4):
        (written,) = upsert(f"d{position}").passages
        large = replace(written, metadata={"note": "n" * 2000, "tags": [""] * 250})
        recent.add(entry(position, [replace(upsert(f"d{position}"), passages=(large,))]))
    assert [position for position in range(1, 4) if recent.get(f"d{position}") is not None] == [3]


def test_what_a_write_under_way_needs_stays() -> None:
    recent = RecentWrites(0, max_bytes=0)
    with recent.hold() as first:
        recent.add(entry(1, [upsert("a")]))
        with recent.hold() as second:
            recent.add(entry(2, [upsert("b")]))
            assert (first, second) == (0, 1)
        assert recent.get("a") is not None
    assert recent.get("a") is recent.get("b") is None
    with recent.hold() as third:
        assert third == 2


def test_what_leaves_the_statistics_counts_passages() -> None:
    document = written_document(upsert("a", "one two two"), 1)
    twice = StoredDocument("a", 1, document.passages * 2)
    assert twice.retired == RetiredState({"one": 2, "two": 2}, 6, 2)
