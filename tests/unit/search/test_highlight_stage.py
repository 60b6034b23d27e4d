"""Who chooses the best sentences of an answer, through the pipeline, over fakes that prefer later sentences."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.encoders import TokenEncoder, load_encoder
from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.records import AnswerShape, Passage, SearchAnswer, SearchRequest
from shoal.search.highlight import sentences
from shoal.search.highlight_stage import HIGHLIGHTED_BY_TOKENS
from shoal.search.pipeline import SearchPipeline
from shoal.settings import EncoderSettings, LateSettings, LexicalSettings
from shoal.shard.sentence_questions import ScoreSentences
from shoal.testing.fakes import (
    FakeEncoder,
    FakeReranker,
    FakeShard,
    now,
    serve_settings,
    served_version,
    virtual_time,
)
from tests.support.indexes import publish

PASSAGES = [
    Passage(f"p{number:04d}", f"A fish swims. A heron flies. Their number is {number}", f"About {number}")
    for number in range(60)
]
SIZES = [10, 20, 30]
BY_WORDS = "A fish swims."


def last_sentence(number: int) -> str:
    return f"Their number is {number}"


class System:
    """A pipeline over fakes: 60 passages of three sentences, in three shards that hold token vectors."""

    def __init__(self, kind: str = "late_interaction", **settings: Any) -> None:
        self.shards = [FakeShard(PASSAGES[a:b]) for a, b in pairwise(np.cumsum([0, *SIZES]))]
        for shard in self.shards:
            shard.answer = prefer_later
        self.encoder, self.reranker = FakeEncoder(), FakeReranker()
        self.pipeline = SearchPipeline(
            self.encoder,
            self.shards,
            self.reranker,
            serve_settings(**{"stored_tokens": False, **settings}),  # rerank: true lets the reranker read
            clock=now,
            reranker_kind=kind,
        )
        self.pipeline.switch(served_version("v1", SIZES, None, True, late=True))

    async def search(self, **changes: Any) -> SearchAnswer:
        base = SearchRequest(query="fish", top_k=12, top_n=5, rerank=True, deadline=now() + 10, mode="dense")
        return await self.pipeline.search(replace(base, shape=AnswerShape(highlight=True), **changes))


def prefer_later(question: ScoreSentences) -> list[Any]:
    return [np.arange(len(of_row.ranges), dtype=np.float32) for of_row in question.sentences]


def texts(answer: SearchAnswer) -> list[str | None]:
    for result in answer.results:
        if result.highlight:
            start, end = result.highlight.start, result.highlight.end
            assert result.passage.text[start:end] == result.highlight.text
    return [result.highlight and result.highlight.text for result in answer.results]


def expected(answer: SearchAnswer) -> list[str | None]:
    return [last_sentence(int(result.id[1:])) for result in answer.results]


@virtual_time
async def test_a_reranker_with_token_vectors_chooses_among_the_results_alone() -> None:
    system = System()
    answer = await system.search()
    assert texts(answer) == expected(answer)
    ((query, contents),) = system.reranker.sentence_calls
    assert (query, contents) == ("fish", [result.passage.content for result in answer.results])
    assert (system.encoder.located, [shard.questions for shard in system.shards]) == ([], [[], [], []])
    assert (answer.warnings, answer.degraded) == ((), None)


@pytest.mark.parametrize(
    ("kind", "changes"), [("late_interaction", {"rerank": "late"}), ("overlap", {"rerank": "late"}), ("overlap", {})]
)
@virtual_time
async def test_stored_token_vectors_choose_where_they_ordered_the_answer(kind: str, changes: dict[str, Any]) -> None:
    system = System(kind, shortlist=6)  # which the shards choose for a reranker without token vectors
    answer = await system.search(**changes)
    assert texts(answer) == expected(answer)
    assert system.reranker.sentence_calls == []
    assert system.encoder.located == [[result.passage.content for result in answer.results]]
    asked = [question for shard in system.shards for question in shard.questions]
    assert sum(len(question.rows) for question in asked) == 5
    for question in asked:
        for of_row in question.sentences:  # two words of a title, and sentences of three, three and four
            assert (of_row.count, of_row.ranges.tolist()) == (12, [[2, 5], [5, 8], [8, 12]])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("overlap", {}), ("late_interaction", {"rerank": False}), ("cross_encoder", {"query": "passage fish"})],
)
@virtual_time
async def test_else_words_choose(kind: str, changes: dict[str, Any]) -> None:
    system = System(kind)
    assert texts(await system.search(**changes)) == [BY_WORDS] * 5
    assert (system.reranker.sentence_calls, system.encoder.located) == ([], [])


@virtual_time
async def test_words_choose_where_the_reranker_has_failed() -> None:
    system = System()
    system.reranker.behaviour.errors = [RuntimeError("broken")]
    answer = await system.search()
    assert (texts(answer), answer.degradations) == ([BY_WORDS] * 5, ("reranker_failed",))
    assert system.reranker.sentence_calls == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (DeadlineExceeded("late"), "there was no time left to compare token vectors"),
        (Overloaded("busy"), "too many others wait to have token vectors compared"),
        (Unavailable("gone"), "token vectors could not be compared"),
        (RuntimeError("broken"), "token vectors could not be compared"),
    ],
)
@pytest.mark.parametrize("rerank", [True, "late"])
@virtual_time
async def test_words_choose_where_token_vectors_cannot_and_a_warning_says_so(
    rerank: Any, error: Exception, why: str
) -> None:
    system = System()
    failing = system.encoder.locate_behaviour if rerank == "late" else system.reranker.sentence_behaviour
    failing.errors = [error]
    answer = await system.search(rerank=rerank)
    assert texts(answer) == [BY_WORDS] * 5
    assert answer.warnings == (f"the best sentences were chosen by words: {why}",)
    assert (answer.reranked, answer.degraded, answer.coverage.fraction) == (True, None, 1.0)


@pytest.mark.parametrize("rerank", [True, "late"])
@virtual_time
async def test_nothing_is_waited_for_beyond_the_deadline(rerank: Any) -> None:
    system = System()
    system.encoder.locate_behaviour.delay = system.reranker.sentence_behaviour.delay = 100
    started = now()
    answer = await system.search(rerank=rerank)
    assert now() - started < 10
    assert texts(answer) == [BY_WORDS] * 5
    assert answer.warnings == (
        "the best sentences were chosen by words: there was no time left to compare token vectors",
    )


@virtual_time
async def test_a_shard_that_does_not_answer_leaves_its_results_to_words() -> None:
    system = System()
    system.shards[2].lookup_behaviour.errors = [RuntimeError("broken")]
    answer = await system.search(rerank="late", top_k=60, top_n=30)
    numbers = [int(result.id[1:]) for result in answer.results]
    assert {number < 30 for number in numbers} == {True, False} or min(numbers) >= 30
    assert texts(answer) == [last_sentence(number) if number < 30 else BY_WORDS for number in numbers]
    assert answer.warnings == ("some of the best sentences were chosen by words (shard 2: error)",)


@pytest.mark.parametrize("rerank", [True, "late"])
@virtual_time
async def test_the_cost_is_bounded_by_the_number_of_results(rerank: Any) -> None:
    system = System()
    answer = await system.search(rerank=rerank, top_k=60, top_n=60)
    assert texts(answer)[:HIGHLIGHTED_BY_TOKENS] == expected(answer)[:HIGHLIGHTED_BY_TOKENS]
    assert set(texts(answer)[HIGHLIGHTED_BY_TOKENS:]) == {BY_WORDS}
    asked = [*system.encoder.located, *(contents for _, contents in system.reranker.sentence_calls)]
    assert [len(contents) for contents in asked] == [HIGHLIGHTED_BY_TOKENS]


def scores_of_sentences(encoder: TokenEncoder, query: str, text: str) -> dict[str, float]:
    """By the definition: of each sentence, the mean over words of the query of the best cosine in it."""
    (asked,), (read,) = encoder.encode_query_tokens([query]), encoder.encode_passage_tokens([text])
    start, scores = 0, {}
    for first, end in sentences(text):
        behind = start + len(text[first:end].split())
        best = [max(float(token @ other) for other in read.tokens[start:behind]) for token in asked.tokens]
        scores[text[first:end]] = float(np.mean(best))
        start = behind
    return scores


def written_texts(count: int) -> Sequence[str]:
    random = np.random.default_rng(3)
    words = ["coral", "corals", "bleach", "bleaching", "warm", "warmth", "algae", "reef", "reefs", "survival"]
    return [
        " ".join(" ".join(random.choice(words, 4)).capitalize() + "." for _ in range(random.integers(2, 6)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("rerank", ["late", True])
def test_live_and_built_passages_are_highlighted_by_the_definition(tmp_path: Path, rerank: Any) -> None:
    model = load_encoder(EncoderSettings(encoder="hashing:64"))
    assert isinstance(model, TokenEncoder)
    made = [
        Passage(f"p{number}", text, None if number % 3 else "A title. Of two")
        for number, text in enumerate(written_texts(30))
    ]
    late = LateSettings(late_interaction="stored", late_dims=64, late_bits=8)
    publish(tmp_path / "index", "v1", made[:20], lexical=LexicalSettings(), late=late, writable=True)
    with shoal.open(tmp_path / "index", reranker="late_interaction", correct_spelling=False) as index:
        index.upsert([{"id": passage.id, "title": passage.title, "text": passage.text} for passage in made[20:]])
        differs = 0
        for query in ("coral survived warmer", "reef bleached", "warming alga"):
            options = {"mode": "dense", "top_k": 30, "top_n": 30, "highlight": True, "consistency": "strong"}
            results = index.search(query, rerank=rerank, **options).results
            assert len(results) == 30
            by_words = index.search(query, rerank=False, **options).results
            words = {result.id: result.highlight and result.highlight.text for result in by_words}
            for result in results:
                assert result.highlight is not None
                assert result.text is not None
                assert result.text[result.highlight.start : result.highlight.end] == result.highlight.text
                scores = scores_of_sentences(model, query, result.text)
                assert scores[result.highlight.text] >= max(scores.values()) - 0.02  # they are rounded
                differs += words[result.id] != result.highlight.text
        assert differs > 30
