"""Documents of whoever asks, scored by the reranker that searches need too."""

from collections.abc import Sequence

import numpy as np

from shoal.records import FloatArray, RerankedDocuments
from shoal.search.hedging import retried
from shoal.search.services import RerankService
from shoal.search.slices import failing_as, in_turn
from shoal.settings import ServeSettings

SLICE_DOCUMENTS = 32
"""Documents of one call: about as many as a search sends with the default top_k, so that it waits no longer for one."""


async def rerank_documents(
    reranker: RerankService, query: str, documents: Sequence[str], deadline: float, settings: ServeSettings
) -> RerankedDocuments:
    """Score documents for a query until an absolute deadline, a slice at a time.

    Raises Overloaded at once when too many wait, DeadlineExceeded, Unavailable, and ShoalError if the reranker fails.
    """

    async def score(part: Sequence[str]) -> tuple[FloatArray, int]:
        with failing_as("the reranker failed; the server's log says why"):
            scores = np.asarray(await retried(lambda: reranker.score(query, list(part), deadline)))
            if scores.shape != (len(part),) or not np.isfinite(scores).all():
                raise ValueError(f"scores of {len(part)} documents are {scores!r}")
            return scores, await retried(lambda: reranker.count_tokens(query, list(part), deadline))

    if not documents:
        return RerankedDocuments(settings.reranker, np.zeros(0, np.float32), 0)
    slices = [documents[start : start + SLICE_DOCUMENTS] for start in range(0, len(documents), SLICE_DOCUMENTS)]
    parts = await in_turn(score, slices, max(1, settings.reranker_min_replicas))
    scores = np.concatenate([part for part, _ in parts])
    return RerankedDocuments(settings.reranker, scores, sum(tokens for _, tokens in parts))
