"""Stored token vectors of a transformer, against the token embeddings that sentence-transformers gives."""

from pathlib import Path

import numpy as np
import pytest

from shoal.encoders import TokenEncoder, TokenLocator, backends, load_encoder
from shoal.index_root.storage import Storage
from shoal.late.sentences import SentenceTokens
from shoal.records import FloatArray, Passage
from shoal.rerankers.late_interaction import LateInteraction
from shoal.search.highlight import sentences
from shoal.settings import EncoderSettings, LateSettings
from shoal.shard.reader import Shard
from tests.support import tiny_models
from tests.support.indexes import publish

WORDS = ["red", "blue", "fish", "heron", "otter", "snail", "cell", "vitamin", "bone", "disease"]
QUERIES = ["red fish", "vitamin and bone disease", "otter"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts={"query": "query: ", "document": ""})


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.01), (4, 0.08)])
@pytest.mark.parametrize("backend", [backend for backend in backends() if backend != "hashing"])
def test_scores_are_those_of_the_reference_but_for_rounding(
    tiny: Path, tmp_path: Path, backend: str, bits: int, tolerance: float
) -> None:
    from sentence_transformers import SentenceTransformer

    random = np.random.default_rng(0)
    passages = [Passage(f"p{number}", " ".join(random.choice(WORDS, random.integers(1, 20)))) for number in range(40)]
    reference = SentenceTransformer(str(tiny), device="cpu")
    cache = str(tiny.parent / "converted")
    encoder = load_encoder(
        EncoderSettings(encoder=str(tiny), backend=backend, device="cpu", dtype="float32", model_cache_dir=cache)
    )
    assert isinstance(encoder, TokenEncoder)
    hidden = encoder.encode_query_tokens(["fish"])[0].tokens.shape[1]
    stored = LateSettings(late_interaction="stored", late_dims=hidden, late_bits=bits)
    manifest = publish(tmp_path / "root", "v1", passages, shards=1, encoder=str(tiny), late=stored)
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)
    for query, vectors in zip(QUERIES, encoder.encode_query_tokens(QUERIES), strict=True):
        found = shard.score(vectors, range(40))
        expected = [score(reference, query, passage.text) for passage in passages]
        np.testing.assert_allclose(found, expected, atol=tolerance)
    shard.close()


@pytest.mark.parametrize("backend", [backend for backend in backends() if backend != "hashing"])
def test_sentences_are_scored_as_the_token_embeddings_of_sentence_transformers_say(
    tiny: Path, tmp_path: Path, backend: str
) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(tiny), device="cpu")
    parts = [["red heron bone", "blue otter", "vitamin disease cell snail"], ["fish"], ["otter otter", "red fish red"]]
    passages = [Passage(f"p{number}", " ".join(f"{part}." for part in of)) for number, of in enumerate(parts)]
    cache = str(tiny.parent / "converted")
    encoder = load_encoder(
        EncoderSettings(encoder=str(tiny), backend=backend, device="cpu", dtype="float32", model_cache_dir=cache)
    )
    assert isinstance(encoder, TokenLocator)
    hidden = encoder.encode_query_tokens(["fish"])[0].tokens.shape[1]
    stored = LateSettings(late_interaction="stored", late_dims=hidden, late_bits=8)
    manifest = publish(tmp_path / "root", "v1", passages, shards=1, encoder=str(tiny), late=stored)
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)
    reranker = LateInteraction(encoder, 0)
    texts = [shard.passage(row).text for row in range(3)]
    cut = [list(sentences(text)) for text in texts]
    located = encoder.locate_passage_tokens(texts)
    assert located is not None
    rows = [SentenceTokens.of(offsets, spans) for offsets, spans in zip(located, cut, strict=True)]
    for query in QUERIES:
        own = tokens(reference, query, "query: ")[3:-1]
        expected = []
        for text in texts:
            others, start, of_text = tokens(reference, text, "")[1:-1], 0, []
            for part in text.removesuffix(".").split(". "):
                behind = start + len(reference.tokenizer.tokenize(f"{part}."))
                of_text.append(float((own @ others[start:behind].T).max(axis=1).mean()))
                start = behind
            assert start == len(others)
            expected.append(of_text)
        (encoded,) = encoder.encode_query_tokens([query])
        for of_text, by_shard, by_reranker in zip(
            expected,
            shard.sentence_scores(encoded.tokens, range(3), rows),
            reranker.score_sentences(query, texts, cut),
            strict=True,
        ):
            np.testing.assert_allclose(by_shard, of_text, atol=0.02)
            np.testing.assert_allclose(by_reranker, of_text, atol=2e-3)
    shard.close()


def score(reference: object, query: str, passage: str) -> float:
    """A quarter of the cosine and three of the mean MaxSim, without [CLS], [SEP] and the prompt of the query."""
    own = tokens(reference, query, "query: ")[3:-1]  # [CLS] query : | text | [SEP]
    others = tokens(reference, passage, "")[1:-1]
    vectors = [
        reference.encode([text], prompt=prompt, normalize_embeddings=True)[0]  # type: ignore[attr-defined]
        for text, prompt in ((query, "query: "), (passage, ""))
    ]
    return float(0.25 * vectors[0] @ vectors[1] + 0.75 * (own @ others.T).max(axis=1).mean())


def tokens(reference: object, text: str, prompt: str) -> FloatArray:
    found = reference.encode([text], prompt=prompt, output_value="token_embeddings")[0].numpy()  # type: ignore[attr-defined]
    unit: FloatArray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit
