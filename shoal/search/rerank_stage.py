"""The second stage of a search: a reranker reads the candidates, and its scores and those of stage one order them."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.records import Candidate, FloatArray, Result, SearchRequest
from shoal.rerankers import scores_sentences
from shoal.search.fusion import blend, late_kind
from shoal.search.hedging import Attempts, Budget
from shoal.search.request_plan import RequestPlan
from shoal.search.services import RerankService
from shoal.settings import ServeSettings
from shoal.shard.messages import MESSAGE_BYTES
from shoal.system import tracing

RESERVED_SHARE = 0.05
"""Share of the remaining time that the reranker leaves for an answer without it."""
MAX_RESERVED_S = 0.05
"""Seconds that the reranker leaves for an answer without it at most."""

logger = logging.getLogger(__name__)


class SecondStage:
    """Scores candidates with a reranker, unless None, and orders them.

    Args:
        reranker_kind: What the reranker is, if its name does not tell (`shoal.rerankers.kind_of`).
    """

    def __init__(
        self,
        reranker: RerankService | None,
        settings: ServeSettings,
        clock: Callable[[], float],
        reranker_kind: str | None,
    ) -> None:
        self._reranker = reranker
        self._reranker_kind = reranker_kind or settings.reranker
        self._settings = settings
        self._clock = clock
        self._attempts = Attempts(
            settings.reranker_min_replicas, settings.hedge_percentile, Budget(settings.hedge_budget), clock
        )

    @property
    def has_reranker(self) -> bool:
        """Whether there is a reranker."""
        return self._reranker is not None

    def sentence_scorer(self) -> RerankService | None:
        """The reranker, if it tells what in a passage matches a query."""
        return self._reranker if scores_sentences(self._reranker_kind) else None

    async def score(
        self, request: SearchRequest, candidates: list[Candidate]
    ) -> tuple[FloatArray | None, dict[str, str]]:
        """Return float32 (n,) scores of the candidates or None, and why there are none or not good ones, by reason."""
        if not request.rerank or not candidates:
            return None, {}
        if (reranker := self._reranker) is None:
            return None, {"no_reranker": "not reranked: this server has no reranker"}
        deadline = before(request.deadline, self._clock())
        texts, cut = within_a_message([candidate.passage.content for candidate in candidates if candidate.passage])
        try:
            async with asyncio.timeout(deadline - self._clock()):
                scores = np.asarray(
                    await self._attempts.run(lambda: reranker.score(request.query, texts, deadline), deadline)
                )
            if scores.shape != (len(candidates),) or not np.isfinite(scores).all():
                raise ValueError(f"scores of {len(candidates)} passages are {scores!r}")
            if cut:
                return scores, {"texts_cut": f"the reranker read the first {cut:,} bytes of the longest passages"}
            return scores, {}
        except (TimeoutError, DeadlineExceeded):
            reason, text = "deadline", "missed the deadline"
        except Overloaded:
            reason, text = "overloaded", "is overloaded"
        except Unavailable:
            reason, text = "unreachable", "is not reachable"
        except Exception:
            logger.exception("the reranker failed", extra=tracing.fields())
            reason, text = "failed", "failed"
        return None, {f"reranker_{reason}": f"not reranked: the reranker {text}"}

    def final_scores(
        self, plan: RequestPlan, scores: FloatArray | None, candidates: list[Candidate], max_lexical_score: float
    ) -> FloatArray | None:
        """What an answer, or a shortlist, is ordered by, float32 (n,); None for stage-one order.

        Args:
            plan: Of the request.
            scores: Those of the reranker, or of the shards if the plan is late.
            candidates: N, those that were scored.
            max_lexical_score: See `blend`.
        """
        kind = late_kind(plan.version.encoder) if plan.is_late else self._reranker_kind
        return self._blended(plan, scores, candidates, max_lexical_score, kind)

    def shortlist_scores(
        self, plan: RequestPlan, scores: FloatArray | None, candidates: list[Candidate], max_lexical_score: float
    ) -> FloatArray | None:
        """What the shards' own scores order candidates by; as `final_scores`."""
        return self._blended(plan, scores, candidates, max_lexical_score, late_kind(plan.version.encoder))

    def _blended(
        self,
        plan: RequestPlan,
        scores: FloatArray | None,
        candidates: list[Candidate],
        max_lexical_score: float,
        kind: str,
    ) -> FloatArray | None:
        if scores is None or plan.mode != "hybrid":
            return scores
        return blend(scores, candidates, self._settings, max_lexical_score, kind)


def before(deadline: float, now: float) -> float:
    """Until when a reranker may take, so that there is time left for an answer without it, in seconds as both are."""
    return deadline - min(RESERVED_SHARE * (deadline - now), MAX_RESERVED_S)


def within_a_message(texts: list[str]) -> tuple[list[str], int]:
    """Cut texts that together exceed MESSAGE_BYTES to equal shares of it. Returns them and the share, 0 if all fit."""
    if sum(len(text) if text.isascii() else 4 * len(text) for text in texts) <= MESSAGE_BYTES:
        return texts, 0
    encoded = [text.encode() for text in texts]
    if sum(map(len, encoded)) <= MESSAGE_BYTES:
        return texts, 0
    share = MESSAGE_BYTES // len(texts)
    return [text[:share].decode(errors="ignore") for text in encoded], share


def best_first(count: int, final_scores: FloatArray | None) -> Sequence[int]:
    """The positions of so many candidates, best first; None leaves stage-one order."""
    if final_scores is None:
        return range(count)
    # The sort is stable: candidates of equal scores stay in stage-one order.
    order: list[int] = np.argsort(-final_scores, kind="stable").tolist()
    return order


def best_results(
    candidates: list[Candidate], rerank_scores: FloatArray | None, final_scores: FloatArray | None, top_n: int
) -> list[Result]:
    """The first results by their final scores, those that have a passage. None leaves stage-one order."""
    results = []
    for position in best_first(len(candidates), final_scores)[:top_n]:
        candidate = candidates[position]
        if candidate.passage:
            result = Result(
                id=candidate.id,
                score=candidate.score if final_scores is None else float(final_scores[position]),
                retrieval_score=candidate.score,
                retrieval_rank=candidate.rank,
                rerank_score=None if rerank_scores is None else float(rerank_scores[position]),
                passage=candidate.passage,
            )
            results.append(result)
    return results
