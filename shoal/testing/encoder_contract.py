"""What every encoder must pass. In the tests of a backend of your own:

    class TestMine(EncoderContract, TokenEncoderContract):
        @pytest.fixture(scope="class")
        def load(self) -> Load:
            return lambda **options: load_encoder(EncoderSettings(backend="mine", dtype="float32", **options))

`load` gives a new encoder each time, in float32 on the CPU; its options are fields of `EncoderSettings`. An encoder
without vectors of tokens leaves `TokenEncoderContract` out; one that counts tokens adds `TokenCounterContract`, one
that tells where they lie `TokenLocatorContract`. With
`pytest.register_assert_rewrite("shoal.testing")` in a conftest.py, pytest shows the values of an assertion that fails.
"""

import re
from collections.abc import Callable

import numpy as np
import pytest

from shoal.encoders import Encoder, LengthCounter, TokenCounter, TokenEncoder, TokenLocator

Load = Callable[..., Encoder]
TEXTS = [
    "red fish",
    "",
    " \n\t",
    "a",
    "naïve café, déjà vu " * 20,
    "日本語のテキストと emoji 🎉🐟",
    "vitamin " * 10_000,
    "x" * 5_000,
    "nul \x00 and a lone surrogate \ud800",
    "the heron and the otter eat a red fish",
    *("otter snail cell " * words for words in range(1, 60)),
]
"""Short and long, empty, of several scripts, with characters that no text should have."""


class _Loaded:
    @pytest.fixture(scope="class")
    def encoder(self, load: Load) -> Encoder:
        """One encoder for all tests of the class."""
        return load()


class EncoderContract(_Loaded):
    """The promises of `shoal.encoders.Encoder`."""

    def test_vectors_are_normalised_float32_of_the_promised_shape(self, encoder: Encoder) -> None:
        for vectors in (encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)):
            assert vectors.dtype == np.float32
            assert vectors.shape == (len(TEXTS), encoder.dim)
            assert vectors.flags.c_contiguous
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert encoder.encode_queries([]).shape == (0, encoder.dim)
        assert encoder.encode_passages([]).shape == (0, encoder.dim)

    def test_texts_that_fill_what_is_read_are_counted_if_any_are(self, encoder: Encoder) -> None:
        if not isinstance(encoder, LengthCounter):
            pytest.skip("this encoder does not count")
        before = encoder.full_texts
        encoder.encode_passages(["a short text", "vitamin " * 10_000, "", "otter " * 10_000])
        assert encoder.full_texts - before in (0, 2)  # 0 where texts of any length are read

    def test_the_order_of_the_input_is_kept(self, encoder: Encoder) -> None:
        shuffled = np.random.default_rng(1).permutation(len(TEXTS))
        vectors = encoder.encode_passages(TEXTS)
        np.testing.assert_allclose(
            encoder.encode_passages([TEXTS[row] for row in shuffled]), vectors[shuffled], atol=1e-5
        )
        for row in (0, 1, 5, 9):
            np.testing.assert_allclose(encoder.encode_passages([TEXTS[row]])[0], vectors[row], atol=1e-5)

    def test_the_same_texts_give_the_same_bits(self, encoder: Encoder, load: Load) -> None:
        again = load()
        assert again.encode_passages(TEXTS).tobytes() == encoder.encode_passages(TEXTS).tobytes()
        assert again.fingerprint() == encoder.fingerprint()

    def test_the_size_of_batches_does_not_show(self, encoder: Encoder, load: Load) -> None:
        vectors = load(batch_tokens=256).encode_passages(TEXTS)
        np.testing.assert_allclose(vectors, encoder.encode_passages(TEXTS), atol=1e-5)

    def test_the_fingerprint_says_what_decides(self, encoder: Encoder, load: Load) -> None:
        fingerprint = encoder.fingerprint()
        assert fingerprint.dim == encoder.dim
        assert fingerprint.dtype == "float32"
        shorter = load(max_length=16)
        assert shorter.fingerprint().max_length == 16
        assert not shorter.fingerprint().matches(fingerprint)

    def test_no_more_than_max_length_is_read(self, load: Load) -> None:
        encoder = load(max_length=16, passage_tokens=0)
        start = "red fish " * 8
        one, other = encoder.encode_passages([start + "otter " * 50, start + "vitamin " * 50])
        assert one @ other > 0.9999
        assert np.min(encoder.encode_queries(["red"]) @ encoder.encode_queries(["disease"]).T) < 0.9999


class TokenEncoderContract(_Loaded):
    """The promises of `shoal.encoders.TokenEncoder`."""

    def test_token_vectors_come_with_the_vector_of_the_text(self, encoder: Encoder) -> None:
        assert isinstance(encoder, TokenEncoder)
        for texts, vectors in (
            (encoder.encode_query_tokens(TEXTS), encoder.encode_queries(TEXTS)),
            (encoder.encode_passage_tokens(TEXTS), encoder.encode_passages(TEXTS)),
        ):
            np.testing.assert_allclose(np.stack([text.vector for text in texts]), vectors, atol=1e-5)
            for text in texts:
                assert text.tokens.ndim == 2
                assert len(text.tokens) >= 1
                np.testing.assert_allclose(np.linalg.norm(text.tokens, axis=1), 1, atol=1e-4)
        assert encoder.encode_passage_tokens([]) == []


class TokenLocatorContract(_Loaded):
    """The promises of `shoal.encoders.TokenLocator`, for an encoder whose tokens are words or parts of them."""

    def test_every_token_lies_in_its_text(self, encoder: Encoder) -> None:
        assert isinstance(encoder, TokenLocator)
        located = encoder.locate_passage_tokens(TEXTS)
        assert located is not None
        for text, offsets, vectors in zip(TEXTS, located, encoder.encode_passage_tokens(TEXTS), strict=True):
            assert offsets.shape == (len(vectors.tokens), 2)
            assert offsets.dtype == np.int64
            if text.strip():
                assert offsets.min() >= 0
                assert offsets.max() <= len(text)
                assert (offsets[:, 0] < offsets[:, 1]).all()
                assert (np.diff(offsets, axis=0) >= 0).all()
        assert encoder.locate_passage_tokens([]) == []

    def test_tokens_lie_where_their_words_do(self, encoder: Encoder) -> None:
        assert isinstance(encoder, TokenLocator)
        text = "  the otter, and (then) a red fish!  \n"
        located = encoder.locate_passage_tokens([text])
        assert located is not None
        covered = np.zeros(len(text), bool)
        for first, end in located[0].tolist():
            covered[first:end] = True
        for word in re.finditer("[a-z]+", text):
            assert covered[word.start() : word.end()].all(), word
        assert not any(covered[place] for place, character in enumerate(text) if character.isspace())


class TokenCounterContract(_Loaded):
    """The promises of `shoal.encoders.TokenCounter`, for an encoder to which "red" and "fish" are one token each."""

    def test_tokens_are_counted_as_they_are_read(self, load: Load) -> None:
        encoder = load(max_length=16)
        assert isinstance(encoder, TokenCounter)
        one, many, none = encoder.count_query_tokens(["red", "red " * 500, ""])
        assert many - one == 499
        assert one - none == 1
        fits = "red " * (16 - none)
        assert encoder.count_query_tokens([fits, fits + "red"]) == [16, 17]
        whole, other = encoder.encode_queries([fits, "fish ".join(fits.rsplit("red ", 1))])
        assert whole @ other < 0.9999
        cut, other = encoder.encode_queries([fits + "red", fits + "fish"])
        assert cut @ other > 0.9999

    def test_any_text_is_counted(self, encoder: Encoder) -> None:
        assert isinstance(encoder, TokenCounter)
        counts = encoder.count_query_tokens(TEXTS)
        assert len(counts) == len(TEXTS)
        assert min(counts) >= 0
        assert encoder.count_query_tokens([]) == []
        assert min(encoder.count_passage_tokens(TEXTS)) >= 0
        assert encoder.count_passage_tokens([]) == []

    def test_passages_are_counted_as_they_are_read(self, load: Load) -> None:
        encoder = load(max_length=16, passage_tokens=0)
        assert isinstance(encoder, TokenCounter)
        (none,) = encoder.count_passage_tokens([""])
        fits = "red " * (16 - none)
        assert encoder.count_passage_tokens([fits, fits + "red"]) == [16, 17]
        cut, other = encoder.encode_passages([fits + "red", fits + "fish"])
        assert cut @ other > 0.9999
