"""Replicas follow the log each by itself: what a request asks to have seen, and shards that have not."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.encoders import load_encoder
from shoal.records import Passage, SearchAnswer, SearchRequest
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
