"""What an engine refuses of the time that a request may take; its other limits: tests/contract/test_engine.py."""

import math

import pytest
from pydantic import ValidationError

from shoal.engine.limits import RequestLimits
from shoal.engine.request_models import search_body
from shoal.errors import InvalidArgument
from shoal.records import SearchRequest
from shoal.settings import ServeSettings
from shoal.writing.requests import DeleteRequest, MetadataUpdate, UpdateRequest


@pytest.mark.parametrize("deadline", [math.nan, math.inf, 31.0])
def test_a_deadline_beyond_the_longest_or_that_is_no_number_is_refused(deadline: float) -> None:
    """A dialect makes it out of what a client sends; nothing waits until NaN, and a comparison with it is false."""
    limits = RequestLimits(ServeSettings(index="index", max_timeout_ms=30_000), clock=lambda: 0.0)
    limits.check_list("", 1, 30.0)
    limits.check_list("", 1, -1.0)  # past: whoever waits for it is told so
    with pytest.raises(InvalidArgument, match="timeout_ms"):
        limits.check_list("", 1, deadline)


def test_each_of_several_deadlines_is_checked() -> None:
    limits = RequestLimits(ServeSettings(index="index", max_timeout_ms=30_000), clock=lambda: 0.0)
    requests = [
        SearchRequest(query="fish", top_k=10, top_n=5, rerank=False, deadline=deadline) for deadline in (1.0, math.nan)
    ]
    for order in (requests, requests[::-1]):
        with pytest.raises(InvalidArgument, match="timeout_ms"):
            limits.check_search(order)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (DeleteRequest(deadline=1.0, ids=["a", "\ud800"]), "ids[1]"),
        (UpdateRequest(deadline=1.0, updates=[MetadataUpdate("\udfff", {"year": 1})]), "updates[0].id"),
        (DeleteRequest(deadline=1.0, ids=["i" * 1025]), "ids[0]"),
        (UpdateRequest(deadline=1.0, updates=[MetadataUpdate("i" * 1025, {"year": 1})]), "updates[0].id"),
    ],
    ids=["delete", "update", "long delete", "long update"],
)
def test_an_id_of_a_write_that_no_record_can_have_is_named(request_: DeleteRequest | UpdateRequest, param: str) -> None:
    """No digest can be made of a lone surrogate; and ids that are missing are kept for an hour with their key."""
    with pytest.raises(InvalidArgument, match=r"surrogates|at most 1024 bytes") as refused:
        RequestLimits(ServeSettings(index="index")).check_write(request_)
    assert refused.value.param == param


@pytest.mark.parametrize("least", [math.nan, math.inf])
def test_a_least_score_is_a_number(least: float) -> None:
    """No score is at least NaN: the answer was empty, and did not say why."""
    body = search_body(ServeSettings(index="index"))
    assert body.model_validate({"query": "fish", "min_score": -1.5}).min_score == -1.5
    with pytest.raises(ValidationError, match="min_score"):
        body.model_validate({"query": "fish", "min_score": least})
