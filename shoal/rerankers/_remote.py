"""A reranker that another server computes: vLLM, text-embeddings-inference, Cohere, Jina or another Shoal.

`http://HOST/v1/rerank` and `/v2/rerank` are asked as Cohere, Jina and vLLM are, `http://HOST/rerank` as
text-embeddings-inference is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShoalError
from shoal.inference.endpoint import Address, Endpoint, readable
from shoal.records import FloatArray
from shoal.settings import RerankerSettings

_TIMEOUT_S = 60.0
"""Seconds that a call waits which brings no deadline."""
_TEI_TEXTS = 32
"""Texts of one request to text-embeddings-inference, which refuses more unless told otherwise."""


class RemoteReranker:
    """Implements `DeadlineReranker` by an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        url = endpoint.address.url
        self._is_tei = not url.endswith(("/v1/rerank", "/v2/rerank"))
        self._no_documents = url.endswith("/v1/rerank")  # the second version returns none, and knows no such field

    def name(self) -> str:
        """Name the reranker for /v1/index and for people."""
        address = self._endpoint.address
        return f"{address.url}#{address.model}" if address.model else address.url

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        return self.score_pairs([(query, passage) for passage in passages])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return float32 (n,) in input order; one request for each query, side by side."""
        rows: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            rows.setdefault(query, []).append(row)
        parts = [part for query, own in rows.items() for part in self._parts(query, [pairs[row][1] for row in own])]
        answers = self._endpoint.ask([body for body, _ in parts], _TIMEOUT_S)
        scores = np.empty(len(pairs), np.float32)
        order = [row for own in rows.values() for row in own]
        if order:
            scores[order] = self._read(answers, [count for _, count in parts])
        return scores

    async def score_until(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n,) in input order by a deadline of `time.monotonic`; safe for concurrent calls."""
        parts = self._parts(query, passages)
        answers = await self._endpoint.ask_until([body for body, _ in parts], deadline)
        return self._read(answers, [count for _, count in parts])

    def _parts(self, query: str, passages: Sequence[str]) -> list[tuple[dict[str, Any], int]]:
        """Bodies of requests, and how many passages each has."""
        texts, size = [readable(text) for text in passages], _TEI_TEXTS if self._is_tei else max(1, len(passages))
        slices = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [(self._body(readable(query), part), len(part)) for part in slices]

    def _body(self, query: str, texts: list[str]) -> dict[str, Any]:
        if self._is_tei:
            return {"query": query, "texts": texts, "truncate": True}
        model = {"model": self._endpoint.address.model} if self._endpoint.address.model else {}
        documents = {"return_documents": False} if self._no_documents else {}
        return {**model, "query": query, "documents": texts, "top_n": len(texts), **documents}

    def _read(self, answers: Sequence[Any], counts: Sequence[int]) -> FloatArray:
        read = [self._scores(answer, count) for answer, count in zip(answers, counts, strict=True)]
        return np.concatenate(read) if read else np.empty(0, np.float32)

    def _scores(self, answer: Any, count: int) -> FloatArray:
        try:
            results, name = (answer, "score") if self._is_tei else (answer["results"], "relevance_score")
            by_index = {int(result["index"]): float(result[name]) for result in results}
            with np.errstate(over="ignore"):  # what float32 cannot hold is no finite number
                scores = np.array([by_index[place] for place in range(count)], np.float32)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ShoalError(
                f"{self._endpoint.address.url} answers with something else than a score of each text"
            ) from None
        if not np.isfinite(scores).all():
            raise ShoalError(f"{self._endpoint.address.url} answers with a score that is no number")
        return scores


def load(model: str, settings: RerankerSettings) -> RemoteReranker:
    """Name an endpoint; it is not asked yet. Raises InvalidArgument for an address that is none of a reranker."""
    return RemoteReranker(Endpoint(Address.parse(model, "/rerank", "reranker"), "reranker"))
