"""Passages that are longer than their encoder reads at once, against sentence-transformers over the same windows."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.encoders import check_passage_tokens, load_encoder
from shoal.encoders._transformer import TransformerEncoder
from shoal.errors import InvalidArgument
from shoal.records import FloatArray, content_of
from shoal.settings import EncoderSettings
from shoal.testing.encoder_contract import (
    TEXTS,
    EncoderContract,
    Load,
    TokenCounterContract,
    TokenEncoderContract,
    TokenLocatorContract,
)
from tests.support import tiny_models

LENGTH, FRAME = 64, 4
"""Tokens that the model reads, and how many of them are `[CLS] passage : [SEP]`."""
HEAD, WINDOW, STEP, EARLIER = 6, 50, 37, 6
"""Tokens of the beginning before each window, of a window, between two of them, and of the 13 that two windows share
the ones that stand for the text in the earlier one are all but so many."""
BUDGET = 200
WORDS = [word for word in tiny_models.WORDS if word != "passage"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "query: ", "document": "passage: "}
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts=prompts)


def load(backend: str, tiny: Path, **options: Any) -> TransformerEncoder:
    given = {"dtype": "float32", "threads": 2, "model_cache_dir": str(tiny.parent / "converted")}
    given |= {"passage_tokens": BUDGET, **options}
    encoder = load_encoder(EncoderSettings(backend=backend, encoder=str(tiny), device="cpu", **given))
    assert isinstance(encoder, TransformerEncoder)
    return encoder


@pytest.fixture(scope="module", params=["torch", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def encoder(backend: str, tiny: Path) -> TransformerEncoder:
    return load(backend, tiny)


def words(count: int, seed: int = 0) -> list[str]:
    """Words of one token each."""
    return [WORDS[number] for number in np.random.default_rng(seed).integers(0, len(WORDS), count)]


def windows(read: list[str]) -> list[list[str]]:
    if len(read) <= LENGTH - FRAME:
        return [read]
    rest = read[HEAD:]
    starts = [0]
    while starts[-1] + WINDOW < len(rest):
        starts.append(starts[-1] + STEP)
    return [read[:HEAD] + rest[start : start + WINDOW] for start in starts]


def mean_vector(tiny: Path, read: list[str]) -> FloatArray:
    """The normalised mean of what sentence-transformers makes of each window."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(tiny), device="cpu")
    vectors = reference.encode_document([" ".join(part) for part in windows(read)], normalize_embeddings=True)
    mean = vectors.mean(axis=0)
    unit: FloatArray = mean / np.linalg.norm(mean)
    return unit


class TestEveryPromise(EncoderContract, TokenEncoderContract, TokenCounterContract, TokenLocatorContract):
    @pytest.fixture(scope="class")
    def load(self, backend: str, tiny: Path) -> Load:
        return partial(load, backend, tiny)


@pytest.mark.parametrize("count", [1, 59, 60, 61, 62, 93, 94, 150, 196])
def test_the_vector_is_the_normalised_mean_of_the_windows(encoder: TransformerEncoder, tiny: Path, count: int) -> None:
    read = words(count, seed=count)
    (vector,) = encoder.encode_passages([" ".join(read)])
    np.testing.assert_allclose(vector, mean_vector(tiny, read), atol=1e-5)
    (same,) = encoder.encode_passage_tokens([" ".join(read)])
    np.testing.assert_allclose(same.vector, vector, atol=1e-5)


def test_a_text_that_just_fits_is_read_as_without_windows(
    encoder: TransformerEncoder, backend: str, tiny: Path
) -> None:
    fits, longer = " ".join(words(60)), " ".join(words(60)) + " otter"
    assert encoder.count_passage_tokens([fits, longer]) == [LENGTH, LENGTH + 1]
    plain = load(backend, tiny, passage_tokens=0)
    assert encoder.encode_passages([fits]).tobytes() == plain.encode_passages([fits]).tobytes()
    assert encoder.encode_passages([longer])[0] @ plain.encode_passages([longer])[0] < 0.9999


def test_every_window_begins_with_the_title(encoder: TransformerEncoder, tiny: Path) -> None:
    title, text = ["heron", "bone", "disease"], words(120, seed=4)
    read = [*title, *text]
    assert all(window[:3] == title for window in windows(read))
    (vector,) = encoder.encode_passages([content_of(" ".join(title), " ".join(text))])
    np.testing.assert_allclose(vector, mean_vector(tiny, read), atol=1e-5)


def test_no_more_than_the_budget_is_read(encoder: TransformerEncoder, tiny: Path) -> None:
    read = words(BUDGET - FRAME, seed=1)
    before = encoder.full_texts
    same = encoder.encode_passages([" ".join(read), " ".join([*read, *words(90, seed=2)]), " ".join(read[:-1])])
    np.testing.assert_allclose(same[1], same[0], atol=1e-6)
    np.testing.assert_allclose(same[0], mean_vector(tiny, read), atol=1e-5)
    np.testing.assert_allclose(same[2], mean_vector(tiny, read[:-1]), atol=1e-5)
    assert np.abs(same[2] - same[0]).max() > 1e-4
    assert encoder.full_texts - before == 2  # those that are as long as the budget or longer


def test_the_tokens_of_the_beginning_are_kept_once_each(encoder: TransformerEncoder, tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    read = words(110, seed=3)
    reference = SentenceTransformer(str(tiny), device="cpu")
    parts = windows(read)
    expected = []
    for number, window in enumerate(parts):
        tokens = reference.encode([" ".join(window)], prompt="passage: ", output_value="token_embeddings")[0].numpy()
        own = tokens[3:-1]  # [CLS] passage : | words | [SEP]
        assert len(own) == len(window)
        first = 0 if number == 0 else HEAD + EARLIER
        behind = len(own) if number == len(parts) - 1 else len(own) - (WINDOW - STEP - EARLIER)
        expected.append(own[first:behind])
    whole = np.concatenate(expected)
    assert len(whole) == len(read)
    whole = whole[: LENGTH - FRAME]
    (found,) = encoder.encode_passage_tokens([" ".join(read)])
    assert found.tokens.shape == (LENGTH - FRAME, 32)
    np.testing.assert_allclose(found.tokens, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


def test_tokens_lie_where_the_tokenizer_of_transformers_says(encoder: TransformerEncoder, tiny: Path) -> None:
    from transformers import AutoTokenizer

    texts = ["größe 日本 🐟 naïve fish " * 40, "vitamin " * 300, "a Red fish"]
    located = encoder.locate_passage_tokens(texts)
    assert located is not None
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    for text, offsets, vectors in zip(texts, located, encoder.encode_passage_tokens(texts), strict=True):
        read = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=LENGTH - 2)["offset_mapping"]
        assert offsets.tolist() == [list(pair) for pair in read[1:-1]]
        assert len(vectors.tokens) == len(offsets)


def test_queries_are_read_to_the_length_of_the_model(encoder: TransformerEncoder, backend: str, tiny: Path) -> None:
    query, plain = " ".join(words(300)), load(backend, tiny, passage_tokens=0)
    assert encoder.encode_queries([query]).tobytes() == plain.encode_queries([query]).tobytes()


def test_texts_of_all_lengths_are_what_each_is_alone(encoder: TransformerEncoder) -> None:
    texts = [*TEXTS, *(" ".join(words(count, seed=count)) for count in range(40, 260, 7))]
    vectors = encoder.encode_passages(texts)
    for row in range(0, len(texts), 5):
        np.testing.assert_allclose(encoder.encode_passages([texts[row]])[0], vectors[row], atol=1e-5)


def test_fewer_dimensions_of_windows(backend: str, tiny: Path) -> None:
    short = load(backend, tiny, dimensions=16)
    (vector,) = short.encode_passages([" ".join(words(150))])
    assert vector.shape == (16,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_fingerprint_names_the_budget_only_where_windows_are_read(
    encoder: TransformerEncoder, backend: str, tiny: Path
) -> None:
    windowed, plain = encoder.fingerprint(), load(backend, tiny, passage_tokens=0).fingerprint()
    assert windowed.passage_tokens == windowed.passage_length == BUDGET
    assert not windowed.matches(plain)
    assert "passage_tokens=200" in str(windowed)
    assert plain.passage_length == LENGTH
    for budget in (0, LENGTH):  # the model reads as many in one go
        assert load(backend, tiny, passage_tokens=budget).fingerprint() == plain
    fields = plain.model_dump(exclude={"model", "dtype"})
    assert [*fields] == ["weights", "dim", "pooling", "query_prompt", "passage_prompt", "max_length"]  # as ever
    said = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    assert plain.digest == f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"
    again = load_encoder(EncoderSettings(**windowed.options, backend=backend, device="cpu", dtype="float32"))
    assert again.fingerprint() == windowed


def test_an_encoder_that_reads_no_windows_says_so() -> None:
    asked = EncoderSettings(encoder="hashing:16", max_length=64, passage_tokens=BUDGET)
    fingerprint = load_encoder(asked).fingerprint()
    assert fingerprint.passage_tokens == 0
    with pytest.raises(InvalidArgument, match="does not read longer texts than 64 tokens in windows"):
        check_passage_tokens(asked, fingerprint)
    check_passage_tokens(EncoderSettings(encoder="hashing:16", max_length=64), fingerprint)
