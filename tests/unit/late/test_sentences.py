"""Which tokens the sentences of a text have, and how they are scored, against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.encoders import TokenLocator, load_encoder
from shoal.late.sentences import SentenceTokens
from shoal.search.highlight import sentences
from shoal.settings import EncoderSettings


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=30), st.lists(st.integers(0, 150), max_size=8)
)
def test_a_token_belongs_to_the_sentence_of_its_last_character(
    tokens: list[tuple[int, int]], borders: list[int]
) -> None:
    ends = np.cumsum([gap + length for gap, length in tokens], dtype=np.int64)
    offsets = np.array(
        [(end - length, end) for end, (_, length) in zip(ends.tolist(), tokens, strict=True)], np.int64
    ).reshape(-1, 2)
    spans = list(zip(sorted(borders), sorted(borders)[1:], strict=False))
    found = SentenceTokens.of(offsets, spans)
    assert found.count == len(tokens)
    for (first, behind), (start, end) in zip(found.ranges.tolist(), spans, strict=True):
        assert list(range(first, behind)) == [
            token for token, last in enumerate((offsets[:, 1] - 1).tolist()) if start <= last < end
        ]


def test_a_sentence_scores_by_its_best_tokens_alone() -> None:
    cosines = np.array([[0.1, 0.9, 0.2, 0.3], [0.5, 0.1, 0.7, 0.6]], np.float32)
    offsets = np.array([(0, 3), (4, 8), (10, 12), (13, 15)])
    scores = SentenceTokens.of(offsets, [(0, 9), (9, 12), (12, 13), (13, 15)]).scores(cosines)
    np.testing.assert_allclose(scores, [0.7, 0.45, -np.inf, 0.45], atol=1e-6)
    assert SentenceTokens.of(offsets, []).scores(cosines).shape == (0,)  # type: ignore[union-attr]


def test_other_tokens_than_were_compared_have_no_scores() -> None:
    assert SentenceTokens.of(np.array([(0, 3)]), [(0, 3)]).scores(np.zeros((2, 2), np.float32)) is None
    assert SentenceTokens.of(np.zeros((0, 2), np.int64), [(0, 3)]).scores(np.zeros((2, 1), np.float32)) is None


@given(st.text(alphabet=st.sampled_from("aB7 .,\n\u0130\u03a3\u00e9\u65e5\U0001f41f"), max_size=60))
def test_words_of_the_hashing_encoder_lie_where_a_person_sees_them(text: str) -> None:
    encoder = load_encoder(EncoderSettings(encoder="hashing:8"))
    assert isinstance(encoder, TokenLocator)
    located = encoder.locate_passage_tokens([text])
    assert located is not None
    expected, start = [], None
    for place, character in enumerate(f"{text} "):
        if character.isascii() and not character.isalnum():
            expected += [] if start is None else [[start, place]]
            start = None
        elif start is None:
            start = place
    assert located[0].tolist() == (expected or [[0, 0]])
    assert len(located[0]) == len(encoder.encode_passage_tokens([text])[0].tokens)


@pytest.mark.parametrize("words", [1, 3, 512, 900])
def test_sentences_that_were_not_read_have_no_tokens(words: int) -> None:
    encoder = load_encoder(EncoderSettings(encoder="hashing:8"))
    assert isinstance(encoder, TokenLocator)
    text = "otter. " * words
    located = encoder.locate_passage_tokens([text])
    assert located is not None
    found = SentenceTokens.of(located[0], list(sentences(text)))
    assert np.count_nonzero(found.ranges[:, 0] < found.ranges[:, 1]) == min(words, 512)
