"""A pipeline over fakes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.records import Passage, SearchRequest
from shoal.search.pipeline import SearchPipeline
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    corpus,
    now,
    serve_settings,
    served_version,
)

PASSAGES = corpus(60)
SIZES = [10, 20, 30]


class System:
    """A pipeline over fakes: 60 passages in three shards of 10, 20 and 30."""

    def __init__(
        self,
        *,
        reranks: bool = True,
        reranker: FakeReranker | None = None,
        passages: Sequence[Passage] = PASSAGES,
        shard: type[FakeShard] = FakeShard,
        **settings: Any,
    ) -> None:
        bounds = np.cumsum([0, *SIZES])
        self.shards = [shard(passages[a:b]) for a, b in pairwise(bounds)]
        self.encoder = FakeEncoder()
        self.reranker = reranker or FakeReranker()
        self.pipeline = SearchPipeline(
            self.encoder,
            self.shards,
            self.reranker if reranks else None,
            serve_settings(**settings),
            clock=now,
        )
        self.pipeline.switch(served_version("v1", SIZES))


def request(query: str = "fish", **changes: Any) -> SearchRequest:
    base = SearchRequest(query=query, top_k=12, top_n=5, rerank=False, deadline=now() + 10)
    return replace(base, **changes)


def number_of(id_: str) -> int:
    return int(id_[1:])


def number_in(text: str) -> float:
    return float(text.split()[-1])
