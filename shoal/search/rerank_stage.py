"""The second stage of a search: a reranker reads the candidates, and its scores and those of stage one order them."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.records import Candidate, FloatArray, Mode, Result, SearchRequest
from shoal.search.fusion import blend
from shoal.search.hedging import Attempts, Budget
from shoal.search.services import MESSAGE_BYTES, RerankService
from shoal.settings import ServeSettings
from shoal.system import tracing

RESERVE = 0.05
RESERVE_S = 0.05
"""What the reranker leaves of the remaining time (a share, and at most so many seconds) for an answer without it."""

LATE = "late"
"""Name of the second stage that compares the token vectors which the shards hold."""

logger = logging.getLogger(__name__)


class SecondStage:
    """Scores candidates with a reranker, unless None, and orders them.

    kind: of the reranker, if its name does not tell (`shoal.rerankers.kind_of`).
    """

    def __init__(
        self, reranker: RerankService | None, settings: ServeSettings, clock: Callable[[], float], kind: str | None
    ) -> None:
        self._reranker = reranker
        self._kind = kind or settings.reranker
        self._settings = settings
        self._clock = clock
        self._attempts = Attempts(
            settings.reranker_min_replicas, settings.hedge_percentile, Budget(settings.hedge_budget), clock
        )

    @property
    def reads(self) -> bool:
        """Whether there is a reranker."""
        return self._reranker is not None

    async def score(
        self, request: SearchRequest, candidates: list[Candidate]
    ) -> tuple[FloatArray | None, dict[str, str]]:
        """Return float32 (n,) scores of the candidates or None, and why there are none or not good ones, by reason."""
        if not request.rerank or not candidates:
            return None, {}
        if (reranker := self._reranker) is None:
            return None, {"no_reranker": "not reranked: this server has no reranker"}
        remaining = request.deadline - self._clock()
        deadline = request.deadline - min(RESERVE * remaining, RESERVE_S)
        texts, cut = _within_a_message([candidate.passage.content for candidate in candidates if candidate.passage])
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

    def final(
        self, mode: Mode, scores: FloatArray | None, candidates: list[Candidate], greatest: float, late: bool
    ) -> FloatArray | None:
        """What an answer is ordered by, float32 (n,); None for stage-one order.

        scores: those of the reranker or, `late`, of the shards. greatest: see `blend`.
        """
        if scores is None or mode != "hybrid":
            return scores
        return blend(scores, candidates, self._settings, greatest, LATE if late else self._kind)


def _within_a_message(texts: list[str]) -> tuple[list[str], int]:
    """Cut texts that together exceed MESSAGE_BYTES to equal shares of it. Returns them and the share, 0 if all fit."""
    if sum(len(text) if text.isascii() else 4 * len(text) for text in texts) <= MESSAGE_BYTES:
        return texts, 0
    encoded = [text.encode() for text in texts]
    if sum(map(len, encoded)) <= MESSAGE_BYTES:
        return texts, 0
    share = MESSAGE_BYTES // len(texts)
    return [text[:share].decode(errors="ignore") for text in encoded], share


def ordered(candidates: list[Candidate], final: FloatArray | None) -> Sequence[int]:
    """Places of candidates, best first; None leaves stage-one order."""
    if final is None:
        return range(len(candidates))
    # The sort is stable: candidates of equal scores stay in stage-one order.
    order: list[int] = np.argsort(-final, kind="stable").tolist()
    return order


def best(candidates: list[Candidate], scores: FloatArray | None, final: FloatArray | None, top_n: int) -> list[Result]:
    """The first results by their final scores; `scores` are those of the reranker. None leaves stage-one order."""
    if scores is None or final is None:
        lines: list[tuple[Candidate, float, float | None]] = [(one, one.score, None) for one in candidates[:top_n]]
    else:
        order = ordered(candidates, final)[:top_n]
        lines = [(candidates[place], float(final[place]), float(scores[place])) for place in order]
    return [
        Result(
            id=candidate.id,
            score=score,
            retrieval_score=candidate.score,
            retrieval_rank=candidate.rank,
            rerank_score=rerank_score,
            passage=candidate.passage,
        )
        for candidate, score, rerank_score in lines
        if candidate.passage
    ]
