"""Replicas of one shard that have applied the log in other steps: rows of the one are not those of the other."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import Conflict
from shoal.records import Passage, RowRef
from shoal.search.fanout import FanOut
from shoal.search.served_version import ServedVersion
from shoal.settings import ServeSettings
from shoal.shard.live import LiveShard
from shoal.shard.messages import replica_of
from tests.support.live import Corpus

TEXTS = ("otter", "heron", "newt", "lynx", "crane", "stoat")


class Replicas:
    """A `ShardService` of two replicas that are asked in turn."""

    def __init__(self, corpus: Corpus) -> None:
        (base,) = corpus.base
        self.replicas = [LiveShard(base, corpus.manifest, 0, threads=1, replica=replica) for replica in (5, 7)]
        self.calls = 0

    def _next(self) -> LiveShard:
        self.calls += 1
        return self.replicas[self.calls % 2]

    async def fetch(self, version: str, rows: list[int], deadline: float, with_vectors: bool = False) -> Any:
        return self._next().fetch(rows, with_vectors)

    async def score(self, version: str, query: Any, rows: list[int], deadline: float) -> Any:
        return self._next().score(query, rows)

    async def ask(self, version: str, question: Any, deadline: float) -> Any:
        return question.answer(self._next())


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path, shards=1)
    corpus.documents = {"old": [Passage("old#1", "stone")]}
    return corpus.open()


async def test_rows_are_asked_of_the_replica_that_has_numbered_them(corpus: Corpus) -> None:
    service = Replicas(corpus)
    entries = [corpus.entry({text: [Passage(f"{text}#1", text)]}) for text in TEXTS]
    for entry in entries:
        service.replicas[0].apply([entry])  # which merges runs on the way
    service.replicas[1].apply(entries)
    fan_out = FanOut(ServedVersion.of(corpus.manifest), [service], ServeSettings(index="x"), time.monotonic)  # type: ignore[list-item]
    wanted = {
        RowRef(0, row): text
        for replica in service.replicas
        for text, row in zip(TEXTS, replica.ids.find([f"{text}#1" for text in TEXTS]), strict=True)
    } | {RowRef(0, 0): "stone"}
    assert len(wanted) == 2 * len(TEXTS) + 1
    answers = await asyncio.gather(*(fan_out.fetch_rows([ref], time.monotonic() + 60, False) for ref in wanted))
    for (ref, text), (found, missing) in zip(wanted.items(), answers, strict=True):
        assert not missing
        assert found[ref][0].text == text
    tokens = corpus.tokens("otter")
    (row,) = service.replicas[1].ids.find(["otter#1"])
    (score,) = await fan_out._clients[0].score(tokens, [row, 0][:1], time.monotonic() + 60)
    assert score == pytest.approx(service.replicas[0].score(tokens, service.replicas[0].ids.find(["otter#1"]))[0])


def test_another_replica_refuses_rows_rather_than_answer_with_others(corpus: Corpus) -> None:
    first, second = Replicas(corpus).replicas
    entry = corpus.entry({"new": [Passage("new#1", "otter")]})
    first.apply([entry])
    second.apply([entry])
    (row,) = first.ids.find(["new#1"])
    assert replica_of(row) == 5
    for ask in (
        lambda: second.fetch([row]),
        lambda: second.inside([row]),
        lambda: second.values_of("x", np.array([row])),
    ):
        with pytest.raises(Conflict, match="another replica"):
            ask()
