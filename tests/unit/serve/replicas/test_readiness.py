"""Readiness alone: services that end a probe as they are told to, and a clock that stands still."""

import asyncio
from collections.abc import Awaitable, Mapping

import pytest

from serve.replicas.readiness import FRESH_S, Readiness
from serve.versions.liveness import BUSY_S
from shoal.errors import DeadlineExceeded, Overloaded, Unavailable


class Services:
    """An encoder and a reranker; `missing` is what the shards lack."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.missing: list[str] = []
        self.outcomes: dict[str, Exception | None] = {"encoder": None, "reranker": None}
        self.probed = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.readiness = Readiness(self._missing_shards, self._probes, lambda: self.time)

    async def _missing_shards(self, deadline: float) -> list[str]:
        await self.may_answer.wait()
        return self.missing

    def _probes(self, deadline: float) -> Mapping[str, Awaitable[object]]:
        self.probed += 1
        return {name: self._answer(name) for name in self.outcomes}

    async def _answer(self, name: str) -> None:
        if (error := self.outcomes[name]) is not None:
            raise error

    async def now(self, **outcomes: Exception | None) -> list[str]:
        """What is missing by a probe of its own."""
        self.outcomes |= outcomes
        self.time += 2 * FRESH_S
        return await self.readiness.missing()


@pytest.fixture
async def services() -> Services:
    return Services()


async def test_what_is_missing_is_named_shards_first(services: Services) -> None:
    assert await services.now() == []
    services.missing = ["shard 1 has not loaded version v1"]
    assert await services.now(encoder=Unavailable("the encoder has no replica")) == [
        "shard 1 has not loaded version v1",
        "the encoder has no replica",
    ]
    assert await services.now(encoder=None, reranker=ValueError("/secret")) == [
        "shard 1 has not loaded version v1",
        "the reranker fails; its log has the details",
    ]


async def test_an_answer_is_given_again_for_a_second(services: Services) -> None:
    assert await services.now() == []
    services.missing = ["shard 0"]
    services.time += FRESH_S
    assert await services.readiness.missing() == []
    assert services.probed == 1
    services.time += FRESH_S
    assert await services.readiness.missing() == ["shard 0"]


async def test_all_who_ask_at_once_share_a_probe_which_outlives_the_first(services: Services) -> None:
    services.may_answer.clear()
    first, *others = [asyncio.ensure_future(services.readiness.missing()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    services.may_answer.set()
    assert await asyncio.gather(*others) == [[]] * 4
    assert services.probed == 1


async def test_a_probe_that_fails_leaves_none_behind(services: Services) -> None:
    async def fail() -> None:
        raise RuntimeError

    services._missing_shards, kept = lambda deadline: fail(), services._missing_shards  # type: ignore[method-assign]
    services.readiness._missing_shards = services._missing_shards
    with pytest.raises(RuntimeError):
        await services.readiness.missing()
    services.readiness._missing_shards = kept
    assert await services.readiness.missing() == []


async def test_a_busy_encoder_is_there_for_a_minute_and_a_busy_reranker_for_ever(services: Services) -> None:
    busy, full = DeadlineExceeded("busy"), Overloaded("full")
    assert await services.now(encoder=busy, reranker=full) == ["busy", "full"], "they have never answered"
    assert await services.now(encoder=None, reranker=None) == []
    assert await services.now(encoder=full, reranker=busy) == []
    services.time += BUSY_S
    assert await services.now() == ["full"]


async def test_no_services_at_all_leave_what_the_shards_lack(services: Services) -> None:
    services.outcomes.clear()
    services.missing = ["the index version is being loaded"]
    assert await services.now() == ["the index version is being loaded"]
