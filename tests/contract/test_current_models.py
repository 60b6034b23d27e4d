"""Models that people use now: each family, in small, gives what sentence-transformers makes of the same folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.encoders import Encoder, InstructedEncoder, load_encoder
from shoal.encoders._transformer import TransformerEncoder
from shoal.errors import ModelUnavailable
from shoal.settings import EncoderSettings
from tests.support import current_models, long, tiny_models

TEXTS = ["red fish", "", "naïve café 日本語 🎉", "the heron eats an otter's bone " * 12, "x"]
CONVERTED = ("qwen3-embedding", "embeddinggemma")
"""Families that OpenVINO is asked for in the short run: for the first, texts are padded on the other side than its
tokenizer does, for the second, masks of the attention are computed in another way. The rest is converted as is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("current")


def load(folder: Path, backend: str, **options: Any) -> Encoder:
    cache = str(folder.parent / "converted")
    settings = {"device": "cpu", "dtype": "float32", "threads": 2, "model_cache_dir": cache, "batch_tokens": 256}
    settings |= {"passage_tokens": 0}  # windows have tests of their own
    return load_encoder(EncoderSettings(encoder=str(folder), backend=backend, **settings | options))


def _cases() -> list[Any]:
    cases = [pytest.param(name, "torch", id=f"{name}-torch") for name in current_models.FAMILIES]
    for name in current_models.FAMILIES:
        marks = () if name in CONVERTED else (long.only_long,)
        cases.append(pytest.param(name, "openvino", id=f"{name}-openvino", marks=marks))
    return cases


@pytest.mark.parametrize(("name", "backend"), _cases())
def test_vectors_are_those_of_sentence_transformers(name: str, backend: str, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    family = current_models.FAMILIES[name]
    model = folder / name if (folder / name).exists() else current_models.save_encoder(name, folder)
    encoder, reference = load(model, backend), SentenceTransformer(str(model), device="cpu")
    assert isinstance(encoder, TransformerEncoder)
    fingerprint = encoder.fingerprint()
    assert fingerprint.pooling == (family.shown or family.pooling)
    assert fingerprint.max_length == current_models.POSITIONS
    passage_prompt = family.prompts.get("document") or family.prompts.get("passage") or ""
    assert (fingerprint.query_prompt, fingerprint.passage_prompt) == (family.prompts.get("query", ""), passage_prompt)
    for made, expected in (
        (encoder.encode_queries(TEXTS), reference.encode_query(TEXTS)),
        (encoder.encode_passages(TEXTS), reference.encode(TEXTS, prompt=passage_prompt)),
    ):
        assert np.sum(made * expected, axis=1).min() >= 0.9999
    assert reference.encode(TEXTS[:1]) @ reference.encode(TEXTS[3]) < 0.99
    lengths = [len(reference.tokenizer(passage_prompt + text)["input_ids"]) for text in TEXTS]
    assert encoder.count_passage_tokens(TEXTS) == lengths
    assert max(lengths) > current_models.POSITIONS


def test_queries_are_read_with_the_instruction_of_the_index_or_of_the_request(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    name = "qwen3-embedding"
    model = folder / name if (folder / name).exists() else current_models.save_encoder(name, folder)
    encoder = load(model, "torch", query_instruction="Find refutations")
    assert isinstance(encoder, InstructedEncoder)
    reference = SentenceTransformer(str(model), device="cpu")
    own, other = (f"Instruct: {words}\nQuery:" for words in ("Find refutations", "Find sources"))
    assert encoder.fingerprint().query_prompt == own
    assert not encoder.fingerprint().matches(load(model, "torch").fingerprint())
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), reference.encode(TEXTS, prompt=own), atol=1e-4)
    expected = reference.encode(TEXTS, prompt=other)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS, "Find sources"), expected, atol=1e-4)
    for vectors, row in zip(encoder.encode_query_tokens(TEXTS, "Find sources"), expected, strict=True):
        np.testing.assert_allclose(vectors.vector, row, atol=1e-4)
    settings = EncoderSettings(**encoder.fingerprint().options, backend="torch", device="cpu", dtype="float32")
    assert load_encoder(settings).fingerprint() == encoder.fingerprint()  # as a server of the index loads it


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_model_that_needs_code_of_its_own_is_refused_with_a_remedy(backend: str, tmp_path: Path) -> None:
    folder = tiny_models.save_bi_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "new", "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(ModelUnavailable, match=r"code of its own \(Alibaba-NLP/new-impl.*never run: take a version"):
        load(folder, backend)


def test_code_that_transformers_does_without_is_not_missed(tmp_path: Path) -> None:
    folder = tiny_models.save_bi_encoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.MyBert"}}))
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    assert load(folder, "torch").encode_queries(["red fish"]).shape == (1, 32)


def test_modules_of_no_library_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_bi_encoder(tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "custom_st.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelUnavailable, match=r"code of its own \(custom_st.Transformer\)"):
        load(folder, "torch")
