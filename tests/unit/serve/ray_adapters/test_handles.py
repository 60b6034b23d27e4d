"""Handles over replicas of this process, whose calls are packed as Serve packs them; no Ray is started."""

import asyncio
import pickle
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

from serve.ray_adapters.handles import EncoderHandle, RerankerHandle, ShardHandle
from serve.replicas.encoder import QueryEncoder
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from shoal.encoders import load_encoder
from shoal.settings import RerankerSettings, ServeSettings
from shoal.shard.messages import ShardSearch, dense_queries
from tests.support.indexes import passages, publish
from tests.support.replicas import HASHING, soon

AHEAD_S: ContextVar[float] = ContextVar("ahead", default=0.0)
"""Seconds by which the clock of the machine is ahead on which a piece of work runs."""


class RemoteHandle:
    """A handle of a replica on a machine whose clock differs."""

    deployment_name = "replica"

    def __init__(self, replica: Any, ahead_s: float) -> None:
        self._replica = replica
        self._ahead_s = ahead_s

    def __getattr__(self, method: str) -> Any:
        return type("Method", (), {"remote": lambda _, *args, **options: self._start(method, args, options)})()

    def broadcast(self, method: str, *args: Any, **options: Any) -> Any:
        async def results(_: Any, timeout_s: float) -> list[Any]:
            return [await self._start(method, args, options)]

        return type("Broadcast", (), {"results_async": results})()

    def _start(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> "asyncio.Task[Any]":
        context = copy_context()
        context.run(AHEAD_S.set, self._ahead_s)
        packed = pickle.dumps((args, options))

        async def run() -> Any:
            args, options = pickle.loads(packed)
            return await getattr(self._replica, method)(*args, **options)

        return asyncio.get_running_loop().create_task(run(), context=context)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Puts a replica on a machine whose clock differs by so many seconds."""
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + AHEAD_S.get())
    return RemoteHandle


@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 40.0, 3600.0])
async def test_services_answer_whatever_the_clocks_of_their_machines_say(
    ahead_s: float, machine: Callable[[Any, float], Any], tmp_path: Path
) -> None:
    publish(tmp_path, "v1", passages(40))
    settings = ServeSettings(index=str(tmp_path), encoder="hashing:64")
    encoder = EncoderHandle(machine(QueryEncoder(HASHING, load_encoder(HASHING).fingerprint(), 10), ahead_s))
    shard = ShardHandle(machine(Retriever(settings, 0), ahead_s), 0)
    reranker = RerankerHandle(machine(Reranker(RerankerSettings(reranker="overlap"), 10), ahead_s))
    vectors = await encoder.encode(["red fish"], soon())
    assert len(await encoder.encode_passages(["red fish"], soon())) == 1
    assert len(await encoder.encode_tokens(["red fish"], soon())) == 1
    assert await encoder.count_tokens(["red fish", "fish " * 600], soon()) == [2, 600]
    hits = await shard.search(ShardSearch("v1", dense_queries(vectors), 5, True), soon())
    rows = hits.by_retriever["dense"].rows[0].tolist()
    assert len((await shard.fetch("v1", rows, soon(), with_vectors=True)).passages) == 5
    assert (await reranker.score("red fish", ["a red fish", "a newt"], soon())).shape == (2,)
    ids = await shard.list_ids("v1", "p1", None, 100, soon())
    assert ids == sorted(ids)
    assert await shard.locate("v1", ["nothing", ids[0]], soon()) == [-1, (await shard.locate("v1", ids, soon()))[0]]
    await shard.prepare("v1", soon())
    await shard.retire(["v1"], soon())
    assert await shard.holds("v1", soon())
    for service in (encoder, shard, reranker):
        assert await service.clock(soon()) == pytest.approx(time.time() + ahead_s, abs=60)
