"""Replicas follow the log each by itself: what a request asks to have seen, and shards that have not."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.encoders import load_encoder
from shoal.errors import Conflict, DeadlineExceeded
from shoal.filters import parse
from shoal.records import Passage, SearchAnswer, SearchRequest
from shoal.search import documents
from shoal.settings import LexicalSettings, ServeSettings
from tests.support.engine import HASHING, local_engine
from tests.support.indexes import passages, publish
from tests.support.live import append, document


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "index", "v1", passages(20), lexical=LexicalSettings(), writable=True)
    return tmp_path / "index"


def request(query: str, seconds: float = 60, **options: Any) -> SearchRequest:
    deadline = time.monotonic() + seconds
    return SearchRequest(query=query, top_k=10, top_n=10, rerank=False, deadline=deadline, **options)


def write(root: Path, *names: str) -> int:
    model = load_encoder(HASHING)
    return append(root, *(document([Passage(name, f"the lynx {name}")], [], model) for name in names))


def ids(answer: SearchAnswer) -> list[str]:
    return sorted(result.id for result in answer.results)


async def test_all_replicas_see_what_was_written_at_a_position(root: Path) -> None:
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    (before,) = await ingress.search([request("lynx", mode="lexical")])
    assert (ids(before), before.position) == ([], None)
    position = write(root, *(f"new{number}" for number in range(6)))
    plain, other = await ingress.search([request("lynx", mode="lexical", min_position=position), request("otter")])
    assert ids(plain) == [f"new{number}" for number in range(6)]
    assert (plain.position, plain.coverage.answered) == (position, 2)
    assert other.position in (0, position)  # it asked for nothing
    write(root, "last")
    (strong,) = await ingress.search([request("last", mode="lexical", strong=True)])
    assert (ids(strong), strong.position) == (["last"], 2)
    description = await ingress.describe()
    assert description.live is not None
    assert (description.passages, description.live.position, description.live.rows) == (27, 2, 7)


async def test_a_shard_that_has_not_seen_what_was_asked_for_is_missing_as_behind(root: Path) -> None:
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    assert ingress._services is not None
    late: Any = ingress._services.shards[1]
    late._live["v1"].read = lambda position: []
    late._live["v1"].tail._read = lambda position: []
    position = write(root, *(f"new{number}" for number in range(6)))
    (answer,) = await ingress.search([request("lynx", seconds=2, mode="lexical", min_position=position)])
    assert [(missing.shard, missing.reason) for missing in answer.coverage.missing] == [(1, "behind")]
    assert answer.position == position
    assert answer.degraded == "1 of 2 shards is missing (shard 1: behind)"
    assert 0 < len(answer.results) < 6


async def test_passages_and_lists_are_read_at_a_position(root: Path) -> None:
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    names = [f"new{number}" for number in range(6)]
    position = write(root, *names)
    fetched = await ingress.fetch([*names, "p3"], time.monotonic() + 60, min_position=position)
    assert ([passage.id for passage, _ in fetched.passages], fetched.missing) == ([*names, "p3"], [])
    position = write(root, "next")
    listed = await ingress.list_ids("ne", 10, None, time.monotonic() + 60, min_position=position)
    assert listed.ids == [*names, "next"]


async def test_what_a_shard_that_is_behind_may_hold_is_unknown_and_not_missing(root: Path) -> None:
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    assert ingress._services is not None
    late: Any = ingress._services.shards[1]
    late._live["v1"].read = lambda position: []
    late._live["v1"].tail._read = lambda position: []
    names = [f"new{number}" for number in range(6)]
    position = write(root, *names)
    fetched = await ingress.fetch(names, time.monotonic() + 2, min_position=position)
    assert [(missing.shard, missing.reason) for missing in fetched.coverage.missing] == [(1, "behind")]
    assert 0 < len(fetched.unknown) < 6
    assert fetched.missing == []
    with pytest.raises(DeadlineExceeded, match=r"a list would lack ids in time \(shard 1: behind\)"):
        await ingress.list_ids("new", 10, None, time.monotonic() + 2, min_position=position)
    for shard in ingress._services.shards:
        assert await shard.locate("v1", ["p3"], time.monotonic() + 60)  # who asks for nothing waits for nothing
    with pytest.raises(DeadlineExceeded, match=f"position {position + 1} of the log is not reached yet"):
        await ingress.fetch(["p3"], time.monotonic() + 0.3, min_position=position + 1)


async def test_a_replica_that_starts_later_has_seen_what_was_written_before(root: Path) -> None:
    position = write(root, "new0", "new1")
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=3600))
    (answer,) = await ingress.search([request("lynx", mode="lexical")])
    assert (ids(answer), answer.position) == (["new0", "new1"], position)


async def test_a_version_that_goes_is_followed_no_more(root: Path) -> None:
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    write(root, "new0")
    await ingress.search([request("lynx", strong=True)])
    for number in (2, 3):
        publish(root, f"v{number}", passages(20), lexical=LexicalSettings(), writable=True, activate=False)
        await ingress.activate(f"v{number}")
    assert ingress._services is not None
    shard: Any = ingress._services.shards[0]
    (answer,) = await ingress.search([request("lynx", mode="lexical", strong=True)])
    # Published by no compaction, it does not hold what was written, which is laid over it.
    assert (answer.index_version, ids(answer), answer.position) == ("v3", ["new0"], 1)
    assert sorted(shard._live) == sorted(shard._open) == ["v2", "v3"]
    await asyncio.sleep(0)
    assert "v1" not in shard._tails


async def test_a_writer_looks_up_documents_as_they_are_at_a_position(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "DOCUMENTS_PER_CALL", 2)
    ingress = await local_engine(ServeSettings(index=str(root), watch_s=0.1))
    pipeline = ingress._pipeline
    assert pipeline is not None
    before = await pipeline.look_up(["p3", "new0"], 0, time.monotonic() + 60)
    assert [(name, stored.position) for name, stored in before.items()] == [("p3", 0)]
    names = [f"new{number}" for number in range(7)]
    position = write(root, *names)
    found = await pipeline.look_up([*names, "p3", "p3", "nothing"], position, time.monotonic() + 60)
    assert sorted(found) == [*names, "p3"]
    assert {stored.position for name, stored in found.items() if name != "p3"} == {position}
    assert found["new4"].passages[0].passage.text == "the lynx new4"
    assert found["new4"].retired.passages == 1
    tree = parse({"number": {"$lt": 3}}, {"number": "integer"}, 9, 9)
    assert sorted(await pipeline.select_ids(tree, 99, position, time.monotonic() + 60)) == ["p0", "p1", "p2"]
    assert len(await pipeline.select_ids(None, 5, position, time.monotonic() + 60)) == 5
    assert len(await pipeline.select_ids(None, 99, position, time.monotonic() + 60)) == 27
    with pytest.raises(DeadlineExceeded, match="documents cannot be looked up"):
        await pipeline.look_up(["p3"], position + 1, time.monotonic() + 0.05)


async def test_a_writer_is_told_of_a_version_that_takes_no_documents(tmp_path: Path) -> None:
    publish(tmp_path / "old", "v1", passages(20), lexical=LexicalSettings())
    ingress = await local_engine(ServeSettings(index=str(tmp_path / "old"), watch_s=0.1))
    assert ingress._pipeline is not None
    with pytest.raises(Conflict, match="built before documents could be written to an index; build it again"):
        await ingress._pipeline.look_up(["p3"], 0, time.monotonic() + 60)
    write(tmp_path / "old", "new0")
    (answer,) = await ingress.search([request("lynx otter", mode="lexical")])
    assert answer.results
    assert ingress._live is not None
    ingress._live.tail.advance(1)
    with pytest.raises(DeadlineExceeded, match="build it again"):
        await ingress._live.tail.reach(1, time.monotonic() + 1)
    description = await ingress.describe()
    assert description.problem is not None
    assert "build it again" in description.problem
