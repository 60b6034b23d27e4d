"""Learned sparse models, in small: weights and scores are those that sentence-transformers gives the same folder."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.encoders import Encoder, TermEncoder, TokenEncoder, load_encoder
from shoal.errors import ModelUnavailable
from shoal.index_root import versions
from shoal.settings import EncoderSettings
from tests.support import tiny_models
from tests.support.building import Build, jsonl

TEXTS = ["red fish", "", "the heron eats an otter " * 40, "naïve café 日本語 🎉 \ud800", "vitamin of the blue disease"]


@pytest.fixture(scope="module", params=[False, True], ids=["splade", "inference-free"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_sparse(tmp_path_factory.mktemp("sparse"), inference_free=request.param)


def load(sparse: Path | str, encoder: str = "hashing:16", **options: Any) -> Encoder:
    settings = {"device": "cpu", "dtype": "float32", "threads": 2} | options
    return load_encoder(EncoderSettings(encoder=encoder, sparse_encoder=str(sparse), **settings))


def test_terms_are_those_of_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import SparseEncoder

    reference, encoder = SparseEncoder(str(folder), device="cpu"), load(folder)
    assert isinstance(encoder, TermEncoder)
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]
    for made, expected in (
        (encoder.encode_query_terms(TEXTS), reference.encode_query(texts)),
        (encoder.encode_passage_terms(TEXTS), reference.encode_document(texts)),
    ):
        dense = np.zeros((len(TEXTS), reference.get_embedding_dimension()), np.float32)
        for row, weights in enumerate(made):
            assert np.all(np.diff(weights.terms) > 0)
            dense[row, weights.terms] = weights.weights
        np.testing.assert_allclose(dense, expected.to_dense().numpy(), atol=1e-5)
        assert 0 < np.count_nonzero(dense[0]) <= 12


def test_answers_have_the_scores_of_sentence_transformers_over_any_number_of_shards(
    folder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SparseEncoder

    draw = random.Random(5)
    lines = [{"id": f"p{n:02d}", "text": " ".join(draw.choices(tiny_models.WORDS, k=6))} for n in range(60)]
    source = jsonl(tmp_path / "source.jsonl", lines)
    reference = SparseEncoder(str(folder), device="cpu")
    expected = reference.similarity(
        reference.encode_query(["red fish bone"]), reference.encode_document([line["text"] for line in lines])
    )
    scores = dict(zip([line["id"] for line in lines], expected[0].tolist(), strict=True))
    best = sorted((score for score in scores.values() if score > 0), reverse=True)[:10]
    for shards in (1, 3):
        options = {"device": "cpu", "dtype": "float32", "shards": shards}
        build = Build(tmp_path / str(shards), source, sparse_encoder=str(folder), **options)
        versions.activate(build.storage, build.embed().publish())
        with shoal.open(str(tmp_path / str(shards)), device="cpu", dtype="float32", reranker="none") as index:
            results = index.search("red fish bone", mode="sparse", top_k=10, top_n=10).results
        # A weight is rounded to float16: by 0.0005 of itself at most.
        assert [result.score for result in results] == pytest.approx(best, rel=1e-3)
        assert [scores[result.id] for result in results] == pytest.approx(
            [result.score for result in results], rel=1e-3
        )


def test_what_the_encoder_could_do_it_still_can(folder: Path, tmp_path: Path) -> None:
    alone = load_encoder(EncoderSettings(encoder="hashing:16"))
    both = load(folder)
    assert isinstance(both, type(alone))
    assert isinstance(both, TokenEncoder) == isinstance(alone, TokenEncoder)
    np.testing.assert_array_equal(both.encode_passages(["red fish"]), alone.encode_passages(["red fish"]))
    assert both.encode_passages(["red fish"]).shape == (1, both.dim)
    assert not isinstance(alone, TermEncoder)


def test_the_fingerprint_names_both_models_and_loads_them_again(folder: Path) -> None:
    alone, both = load_encoder(EncoderSettings(encoder="hashing:16")).fingerprint(), load(folder).fingerprint()
    assert both.sparse is not None
    assert "sparse" not in alone.model_dump()
    assert not both.matches(alone)
    assert both.digest != alone.digest
    assert both.sparse.max_terms == 12
    assert both.sparse.max_length == 64
    again = EncoderSettings(**both.options, device="cpu", dtype="float32")
    assert load_encoder(again).fingerprint() == both
    moved = both.model_copy(update={"sparse": both.sparse.model_copy(update={"model": "/elsewhere"})})
    assert moved.matches(both)
    assert moved.digest == both.digest
    other = both.model_copy(update={"sparse": both.sparse.model_copy(update={"weights": "sha256:0"})})
    assert not other.matches(both)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no learned sparse model"):
        load(tiny_models.save_bi_encoder(tmp_path))
