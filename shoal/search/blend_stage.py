"""The last word on the order of reranked hybrid answers, where a server has a learned blend."""

import asyncio
from collections.abc import Callable

from shoal.records import FloatArray
from shoal.search.blend_model import read_blend
from shoal.search.learned_blend import LearnedBlend, candidate_scores
from shoal.search.rerank_stage import before
from shoal.search.state import SearchState
from shoal.settings import ServeSettings


class BlendStage:
    """Orders candidates by a learned blend, if the settings name one.

    Args:
        settings: Of the server.
        clock: That of deadlines, in seconds.
        reranker_kind: What the reranker is, if its name does not tell (`shoal.rerankers.kind_of`).

    Raises:
        InvalidArgument: The file of the blend cannot be read.
    """

    def __init__(self, settings: ServeSettings, clock: Callable[[], float], reranker_kind: str | None) -> None:
        self._clock = clock
        self._blend: LearnedBlend | None = None
        if settings.blend is not None:
            self._blend = LearnedBlend(read_blend(settings.blend), reranker_kind or settings.reranker)

    def is_for(self, search: SearchState) -> bool:
        """Whether the answer is ordered by it, for which it needs the texts of all candidates."""
        return self._blend is not None and search.request.blend and self._blend.is_for(search.plan)

    async def order(self, search: SearchState, final_scores: FloatArray | None) -> FloatArray | None:
        """Return what orders the answer, float32 (n,); None leaves stage-one order.

        Args:
            search: With its candidates and their scores.
            final_scores: float32 (n,), what orders it without a learned blend. They stay where it is not for this
                answer, and where it cannot order all candidates, which the trace is told.
        """
        blend, scores, version = self._blend, search.scores, search.plan.version
        if blend is None or scores is None or final_scores is None or not self.is_for(search) or not len(scores):
            return final_scores
        problem = blend.problem(version)
        missing = sum(candidate.passage is None for candidate in search.candidates)
        if problem is None and missing:
            problem = f"{missing} of {len(search.candidates)} texts are missing"
        if problem is None:
            assert version.lexical is not None
            by_name = candidate_scores(search.candidates, scores, final_scores, search.max_lexical_score)
            try:
                with search.trace.stage("rerank"):
                    async with asyncio.timeout(before(search.request.deadline, self._clock()) - self._clock()):
                        return await asyncio.to_thread(
                            blend.order, search.spelling.text, search.candidates, by_name, version.lexical
                        )
            except TimeoutError:
                problem = "it missed the deadline"
        search.trace.degrade("not_blended", f"ordered without the learned blend: {problem}")
        return final_scores
