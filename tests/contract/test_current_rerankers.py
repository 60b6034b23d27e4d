"""Rerankers that people use now: each family, in small, gives what sentence-transformers makes of the same folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.inference import load_network, models, placement
from shoal.records import FloatArray
from shoal.rerankers import PairTokenCounter, Reranker, kind_of, load_reranker, scale_of
from shoal.settings import RerankerSettings
from tests.support import current_models, long

QUERIES = ["how do fish sleep", "x"]
PASSAGES = ["Most fish rest with open eyes.", "", "naïve café 日本語 🎉", "herons eat otters " * 30, "no"]
PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerankers")


@pytest.fixture(scope="module", params=["qwen3", "mxbai"])
def language(request: pytest.FixtureRequest, folder: Path) -> Path:
    return current_models.save_language_reranker(folder, request.param)


def load(model: Path, backend: str = "torch", **options: Any) -> Reranker:
    settings = {"device": "cpu", "dtype": "float32", "threads": 2, "batch_tokens": 512}
    cache = str(model.parent / "converted")
    return load_reranker(
        RerankerSettings(reranker=str(model), backend=backend, model_cache_dir=cache, **settings | options)
    )


def expected(model: Path, pairs: list[tuple[str, str]] = PAIRS, **options: Any) -> FloatArray:
    from sentence_transformers import CrossEncoder

    scores: FloatArray = CrossEncoder(str(model), device="cpu", **options).predict(pairs, batch_size=3)
    return scores


def test_a_language_model_scores_as_in_sentence_transformers(language: Path) -> None:
    scores = expected(language)
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(load(language).score_pairs(PAIRS), scores, atol=1e-4)
    assert scale_of(str(language)) == ("unit" if language.name == "qwen3" else "logit")


def test_the_end_of_the_conversation_is_read_of_a_pair_that_is_cut(language: Path) -> None:
    pairs = [("fish", "open eyes " * 100), ("fish", "otters " * 100), ("fish", "eyes")]
    scores = expected(language, pairs, max_length=160)
    np.testing.assert_allclose(load(language, max_length=160).score_pairs(pairs), scores, atol=1e-4)


def test_what_stands_around_a_pair_counts_as_read(language: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(language))
    messages = [
        {"role": "system", "content": "Find what answers the query"},
        {"role": "query", "content": "fish"},
        {"role": "document", "content": "eyes"},
    ]
    read = len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
    reranker = load(language)
    assert isinstance(reranker, PairTokenCounter)
    assert reranker.count_tokens([("fish", "eyes")]) == read
    assert reranker.count_tokens([("fish", "eyes " * 200)]) == current_models.PAIR_POSITIONS


def test_a_language_model_is_computed_by_torch(language: Path) -> None:
    assert load(language, "auto").score("fish", ["eyes"]).shape == (1,)
    with pytest.raises(ModelUnavailable, match="set backend to torch"):
        load(language, "openvino")


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("modernbert", "torch"),
        ("xlm-roberta", "torch"),
        pytest.param("modernbert", "openvino", marks=long.only_long),
        pytest.param("xlm-roberta", "openvino", marks=long.only_long),
    ],
)
def test_classifiers_score_as_in_sentence_transformers(name: str, backend: str, folder: Path) -> None:
    model = folder / name if (folder / name).exists() else current_models.save_classifier(folder, name)
    scores = expected(model)
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose(load(model, backend).score_pairs(PAIRS), scores, atol=1e-4)


def test_what_was_trained_in_bfloat16_is_not_computed_in_float16_on_a_gpu(
    language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def stop(kind: str, folder: Path, where: placement.Placement, threads: int) -> None:
        chosen.append(where.dtype)
        raise ModelUnavailable("seen")

    monkeypatch.setattr(placement, "has_gpu", lambda: True)
    monkeypatch.setattr("shoal.inference.torch_network.load_model", stop)
    config = json.loads((language / "config.json").read_text())
    for kept, asked in (("bfloat16", "auto"), ("float32", "auto"), ("bfloat16", "float16")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": kept}))
        settings = RerankerSettings(reranker=str(tmp_path), dtype=asked)
        with pytest.raises(ModelUnavailable, match="seen"):
            load_network("cross_encoder", tmp_path, "sha256:", settings, None, 1)
    assert chosen == ["bfloat16", "float16", "float16"]
    assert models.trained_dtype(tmp_path / "nothing") == ""


@pytest.mark.parametrize("expands", [False, True])
def test_a_multi_vector_model_scores_as_in_sentence_transformers(expands: bool, folder: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    model = current_models.save_multi_vector(folder, expands=expands)
    reference = MultiVectorEncoder(str(model), device="cpu", local_files_only=True)
    queries, passages = reference.encode_query(QUERIES), reference.encode_document([*PASSAGES, "."])
    scores = np.asarray(reference.similarity(queries, passages))[:, : len(PASSAGES)]
    scores = scores / np.array([[len(query)] for query in queries])
    assert np.ptp(scores) > 0.05
    reranker = load(model)
    np.testing.assert_allclose(reranker.score_pairs(PAIRS), scores.ravel(), atol=2e-3)
    assert np.isfinite(reranker.score("fish", [".", "\ud800"])).all()
    assert (kind_of(str(model)), scale_of(str(model))) == ("_multi_vector", "cosine")
    assert reranker.name() == f"late_interaction({model})"
    with pytest.raises(InvalidArgument, match="computed by torch"):
        load(model, "openvino")


def test_checkpoints_of_colbert_and_pylate_are_multi_vector_models(tmp_path: Path) -> None:
    assert not models.is_multi_vector(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text('{"model_type": "ColBERT"}')
    (tmp_path / "modules.json").write_text('[{"type": "pylate.models.Dense.Dense"}]')
    assert models.is_multi_vector(tmp_path)
    assert models.own_code(tmp_path) == ("", None)
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "config.json").write_text('{"architectures": ["HF_ColBERT"]}')
    assert models.is_multi_vector(tmp_path)
