"""The best sentence of each result of a search, where it was asked for.

Where token vectors have ordered the answer, they tell: those of the reranker, or those that the shards hold. Else, and
where they cannot be had in time, the words of the query do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from shoal.errors import DeadlineExceeded, Overloaded
from shoal.late.sentences import SentenceTokens
from shoal.records import FloatArray, Highlight, Result, RowRef, Span
from shoal.search.highlight import highlight, sentences
from shoal.search.rerank_stage import before, within_a_message
from shoal.search.services import EncodeService, RerankService
from shoal.search.state import SearchState
from shoal.search.trace import describe
from shoal.settings import ServeSettings
from shoal.shard.sentence_questions import ScoreSentences
from shoal.system import spans, tracing

HIGHLIGHTED_BY_TOKENS = 32
"""Results of an answer whose sentences token vectors tell, at most; the words of the query do for those behind."""

logger = logging.getLogger(__name__)

_Scores = Sequence[FloatArray | None]
"""How well each sentence of each result matches, float32 (s,); None where that is not known."""
_Scorer = Callable[[list[str], list[list[Span]], float], Awaitable[_Scores]]
"""Scores the sentences of texts, as encoders and rerankers read them, until a deadline."""


class HighlightStage:
    """Points out the best sentence of each result.

    Args:
        encoder: Knows which tokens a passage has.
        reranker: One that tells what in a passage matches a query; None if that of the server does not.
        settings: Of the server.
        clock: That of deadlines, in seconds.
    """

    def __init__(
        self,
        encoder: EncodeService,
        reranker: RerankService | None,
        settings: ServeSettings,
        clock: Callable[[], float],
    ) -> None:
        self._encoder = encoder
        self._reranker = reranker
        self._max_characters = settings.max_highlight_characters
        self._clock = clock

    async def highlighted(self, search: SearchState, results: list[Result]) -> list[Result]:
        """Return results with their best sentences."""
        with spans.work("highlight"):
            chosen = await self._by_tokens(search, results[:HIGHLIGHTED_BY_TOKENS])
            chosen += [None] * (len(results) - len(chosen))
            if None in chosen:
                texts, lexical = [result.passage.text for result in results], search.plan.version.lexical
                # A long answer takes milliseconds, in which others are answered.
                by_words = await asyncio.to_thread(
                    highlight, search.spelling.text, texts, lexical, self._max_characters
                )
                chosen = [best or other for best, other in zip(chosen, by_words, strict=True)]
        return [replace(result, highlight=sentence) for result, sentence in zip(results, chosen, strict=True)]

    async def _by_tokens(self, search: SearchState, results: list[Result]) -> list[Highlight | None]:
        """Choose the best sentences by token vectors; None where they do not tell."""
        scorer = self._scorer(search, results)
        if scorer is None:
            return []
        contents = [result.passage.content for result in results]
        texts = [result.passage.text for result in results]
        starts = [len(content) - len(text) for content, text in zip(contents, texts, strict=True)]
        cut = [
            [(start + first, start + end) for first, end in sentences(text[: self._max_characters])]
            for start, text in zip(starts, texts, strict=True)
        ]
        scores = await self._scored(search, scorer, contents, cut)
        return [
            _best(text, start, of_text, of_sentences)
            for text, start, of_text, of_sentences in zip(texts, starts, cut, scores, strict=True)
        ]

    def _scorer(self, search: SearchState, results: Sequence[Result]) -> _Scorer | None:
        """What tells by token vectors that have ordered the answer; None if none have."""
        if search.scores is None:
            return None
        if self._reranker is not None and not search.plan.is_late:
            return partial(self._reranker.score_sentences, search.spelling.text)
        if search.plan.needs_tokens and search.encoded.tokens is not None:
            refs = {candidate.id: candidate.ref for candidate in search.candidates}
            return partial(self._score_stored, search, [refs[result.id] for result in results])
        return None

    async def _scored(
        self, search: SearchState, scorer: _Scorer, contents: list[str], cut: list[list[Span]]
    ) -> _Scores:
        """Score sentences in the time that there is; no failure costs more than that words tell."""
        contents, _ = within_a_message(contents)
        deadline = before(search.request.deadline, self._clock())
        try:
            async with asyncio.timeout(deadline - self._clock()):
                return await scorer(contents, cut, deadline)
        except (TimeoutError, DeadlineExceeded):
            why = "there was no time left to compare token vectors"
        except Overloaded:
            why = "too many others wait to have token vectors compared"
        except Exception:
            logger.exception("the best sentences could not be found by token vectors", extra=tracing.fields())
            why = "token vectors could not be compared"
        search.trace.warnings.append(f"the best sentences were chosen by words: {why}")
        return [None] * len(contents)

    async def _score_stored(
        self, search: SearchState, refs: Sequence[RowRef], contents: list[str], cut: list[list[Span]], deadline: float
    ) -> _Scores:
        """Score sentences by the token vectors that the shards hold, which do not say where in a text they lie."""
        offsets, query = await self._encoder.locate_tokens(contents, deadline), search.encoded.tokens
        if offsets is None or query is None:
            return [None] * len(contents)
        of_rows = {
            ref: SentenceTokens.of(of_text, spans_of_text)
            for ref, of_text, spans_of_text in zip(refs, offsets, cut, strict=True)
        }
        questions = {shard: _question(query.tokens, shard, of_rows) for shard in {ref.shard for ref in refs}}
        answers, missing = await search.fan_out.ask(questions, deadline)
        if missing:
            search.trace.warnings.append(f"some of the best sentences were chosen by words ({describe(missing)})")
        scores: dict[RowRef, FloatArray | None] = {}
        for shard, answer in answers.items():
            scores.update(zip((RowRef(shard, row) for row in questions[shard].rows), answer, strict=True))
        return [scores.get(ref) for ref in refs]


def _question(query: FloatArray, shard: int, of_rows: Mapping[RowRef, SentenceTokens]) -> ScoreSentences:
    """What a shard is asked of its rows among these."""
    rows = [ref.row for ref in of_rows if ref.shard == shard]
    return ScoreSentences(query, rows, [of_rows[RowRef(shard, row)] for row in rows])


def _best(text: str, start: int, cut: Sequence[Span], scores: FloatArray | None) -> Highlight | None:
    """The sentence with the highest score, of equal ones the first; None if no score is known.

    Args:
        text: Of the passage.
        start: Where it begins in what was scored.
        cut: Where its sentences lie in what was scored.
        scores: One for each.
    """
    if scores is None or not len(scores) or scores.max() == -float("inf"):
        return None
    first, end = cut[int(scores.argmax())]
    return Highlight(text[first - start : end - start], first - start, end - start)
