"""Which indexes of a catalog the process of a server on Ray compacts, and what becomes of those that are removed."""

import shutil
from pathlib import Path

import pytest

from serve.versions.catalog_compaction import CompactedIndexes
from serve.versions.compacting import Compacting, Compactor
from shoal.settings import EndpointSettings
from tests.support.indexes import passages, publish


class Child:
    """A compaction that runs until it is ended."""

    ended = False

    def outcome(self) -> int | None:
        return None

    def last_line(self) -> str:
        return ""

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("birds", "fish"):
        publish(tmp_path / "catalog" / name, "v1", passages(6), shards=1)
    return tmp_path / "catalog"


def indexes_of(folder: Path) -> CompactedIndexes:
    return CompactedIndexes(EndpointSettings(index="/articles", catalog=str(folder)), {None: "/articles"})


def compactor_of(compacted: CompactedIndexes, child: Child, due: str) -> Compactor:
    """One that has something to do for the root that ends so."""
    return Compactor(
        lambda root: Compacting(
            lambda: "it is due" if root.endswith(due) else None, lambda: False, lambda: child, lambda line: None
        ),
        compacted.roots,
    )


def test_those_in_the_memory_of_a_replica_are_looked_after_beside_those_that_were_given(folder: Path) -> None:
    compacted = indexes_of(folder)
    compactor = compactor_of(compacted, Child(), "nothing")
    assert compacted.roots() == ["/articles"]
    compacted.follow(compactor, lambda: ["birds"])
    assert compacted.roots() == ["/articles", str(folder / "birds")]
    compacted.follow(compactor, lambda: None)  # no replica says
    assert compacted.roots() == ["/articles", str(folder / "birds")]
    compacted.follow(compactor, list)
    assert compacted.roots() == ["/articles"]


def test_why_one_is_not_compacted_is_told_by_its_name(folder: Path) -> None:
    def fail() -> Child:
        raise OSError("no memory")

    compacted = indexes_of(folder)
    compactor = Compactor(
        lambda root: Compacting(
            lambda: "it is due" if root.endswith("birds") else None, lambda: False, fail, lambda line: None
        ),
        compacted.roots,
    )
    compacted.follow(compactor, lambda: ["birds", "fish"])
    compactor.look()
    ((name, problem),) = compacted.problems(compactor).items()
    assert name == "birds"
    assert "no memory" in problem


def test_a_compaction_of_an_index_that_was_removed_ends_and_leaves_nothing(folder: Path) -> None:
    compacted, child = indexes_of(folder), Child()
    compactor = compactor_of(compacted, child, "birds")
    compacted.follow(compactor, lambda: ["birds"])
    compactor.look()
    assert compactor.running() == [str(folder / "birds")]
    compacted.follow(compactor, list)  # no replica has it in memory any more
    assert not child.ended
    shutil.rmtree(folder / "birds")
    (folder / "birds" / "staging" / "0123456789abcdef").mkdir(parents=True)  # what it wrote then
    compacted.follow(compactor, list)
    assert child.ended
    assert compactor.running() == []
    compacted.follow(compactor, list)
    assert not (folder / "birds").exists()
    assert (folder / "fish" / "CURRENT").exists()


def test_what_somebody_else_makes_in_its_place_stays(folder: Path) -> None:
    compacted, child = indexes_of(folder), Child()
    compactor = compactor_of(compacted, child, "birds")
    compacted.follow(compactor, lambda: ["birds"])
    compactor.look()
    compacted.follow(compactor, list)
    shutil.rmtree(folder / "birds")
    plan = folder / "birds" / "staging" / "0123456789abcdef" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text("{}")
    for _ in range(3):
        compacted.follow(compactor, list)
    assert child.ended
    assert plan.exists()


def test_without_a_catalog_nobody_is_asked(tmp_path: Path) -> None:
    compacted = CompactedIndexes(EndpointSettings(index="/articles"), {None: "/articles", "birds": "/birds"})

    def unasked() -> list[str]:
        raise AssertionError("the replicas were asked")

    compacted.follow(compactor_of(compacted, Child(), "nothing"), unasked)
    assert compacted.roots() == ["/articles", "/birds"]
