"""Replicas learn for which traces they are called."""

from inspect import iscoroutinefunction

import pytest

from serve.replicas.encoder import QueryEncoder
from serve.replicas.reranker import Reranker
from serve.replicas.shard import Retriever
from serve.replicas.traced import Traced, traced
from shoal.system import spans

BROADCAST = {"prepare", "retire"}
"""Methods that are told to all replicas, for no request."""


@pytest.mark.parametrize("replica", [QueryEncoder, Reranker, Retriever])
def test_every_method_that_a_handle_calls_takes_its_place_in_a_trace(replica: type[Traced]) -> None:
    methods = {
        name for name in dir(replica) if not name.startswith("_") and iscoroutinefunction(getattr(replica, name))
    }
    assert methods >= {"clock"}
    assert {name for name in methods if not hasattr(getattr(replica, name), "takes_places")} == methods & BROADCAST


class Echo(Traced):
    @traced
    async def say(self, word: str, deadline: float) -> tuple[str, float]:
        return word, deadline


async def test_a_call_that_is_traced_by_a_process_that_is_not_is_answered() -> None:
    spans.stop()
    assert await Echo().say("fish", deadline=1.0) == ("fish", 1.0)
    assert await Echo().say("fish", deadline=1.0, places=({"traceparent": "none"},)) == ("fish", 1.0)  # type: ignore[call-arg]
