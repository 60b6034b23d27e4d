"""One suite for every file of shoal/encoders/; those that run models are compared with sentence-transformers itself."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.encoders import Encoder, TokenEncoder, TokenLocator, backends, load_encoder
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.inference import conversion, models, placement
from shoal.inference.model_cache import require_model_cache
from shoal.inference.network import NotConvertible
from shoal.inference.runner import token_batches
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, InferenceSettings
from shoal.testing.encoder_contract import (
    TEXTS,
    EncoderContract,
    Load,
    TokenCounterContract,
    TokenEncoderContract,
    TokenLocatorContract,
)
from tests.support import tiny_models

WEIGHTLESS = "hashing"
PROMPTS = {"query": "query: ", "document": "passage: "}
MODEL_BACKENDS = [backend for backend in backends() if backend != WEIGHTLESS]
ENCODABLE = [text for text in TEXTS if "\ud800" not in text]  # sentence-transformers itself refuses a lone surrogate


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts=PROMPTS)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_cross_encoder(tmp_path_factory.mktemp("tiny"))


def load(backend: str, tiny: Path, **options: Any) -> Encoder:
    given = {
        "encoder": WEIGHTLESS if backend == WEIGHTLESS else str(tiny),
        "dtype": "float32",
        "threads": 2,
        "model_cache_dir": str(tiny.parent / "converted"),
        "passage_tokens": 0,  # windows have tests of their own, test_windows.py
        **options,
    }
    return load_encoder(EncoderSettings(backend=backend, device="cpu", **given))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside which converted models are kept."""
    return tmp_path_factory.mktemp("converted") / "none"


class TestEveryEncoder(EncoderContract, TokenEncoderContract, TokenCounterContract, TokenLocatorContract):
    @pytest.fixture(scope="class", params=backends())
    def load(self, request: pytest.FixtureRequest, tiny: Path) -> Load:
        return partial(load, request.param, tiny)


@pytest.mark.parametrize("backend", MODEL_BACKENDS)
class TestModels:
    @pytest.mark.parametrize(
        ("pooling", "options"),
        [
            ("mean", {}),
            ("cls", {}),
            ("max", {}),
            ("weightedmean", {}),
            ("lasttoken", {}),
            ("mean", {"include_prompt": False}),
            ("mean", {"dense": True}),
        ],
    )
    def test_vectors_are_those_of_sentence_transformers(
        self, backend: str, pooling: str, options: dict[str, bool], tmp_path: Path
    ) -> None:
        from sentence_transformers import SentenceTransformer

        folder = tiny_models.save_bi_encoder(tmp_path, pooling, PROMPTS, **options)
        encoder, reference = load(backend, folder), SentenceTransformer(str(folder), device="cpu")
        assert encoder.fingerprint().pooling == pooling + ("+dense" if "dense" in options else "")
        assert (encoder.fingerprint().query_prompt, encoder.fingerprint().passage_prompt) == ("query: ", "passage: ")
        cosine = np.sum(encoder.encode_queries(ENCODABLE) * reference.encode_query(ENCODABLE), axis=1)
        assert cosine.min() >= 0.9999
        cosine = np.sum(encoder.encode_passages(ENCODABLE) * reference.encode_document(ENCODABLE), axis=1)
        assert cosine.min() >= 0.9999

    def test_tokens_are_those_of_the_text_alone(self, backend: str, tiny: Path) -> None:
        from sentence_transformers import SentenceTransformer

        encoder = load(backend, tiny)
        assert isinstance(encoder, TokenEncoder)
        reference = SentenceTransformer(str(tiny), device="cpu")
        tokens = reference.encode(["red fish"], prompt="query: ", output_value="token_embeddings")[0].numpy()
        tokens = tokens[3:-1]  # [CLS] query : | red fish | [SEP]
        found = encoder.encode_query_tokens(["red fish", "", "otter " * 100])
        np.testing.assert_allclose(found[0].tokens, tokens / np.linalg.norm(tokens, axis=1, keepdims=True), atol=1e-5)
        assert [len(text.tokens) for text in found] == [2, 4, 60]  # the empty text has only prompt and special tokens

    def test_tokens_lie_where_the_tokenizer_of_transformers_says(self, backend: str, tiny: Path) -> None:
        from transformers import AutoTokenizer

        encoder = load(backend, tiny)
        assert isinstance(encoder, TokenLocator)
        texts = ["a Red fish, naïve otters", "vitamin " * 100, "日本 🐟 fish"]
        located = encoder.locate_passage_tokens(texts)
        assert located is not None
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        for text, offsets in zip(texts, located, strict=True):
            read = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=64 - 2)["offset_mapping"]
            assert offsets.tolist() == [list(pair) for pair in read[1:-1]]  # [CLS] | text | [SEP], and two of a prompt

    def test_weights_are_named_by_their_digest(self, backend: str, tiny: Path) -> None:
        import hashlib

        digest = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
        assert load(backend, tiny).fingerprint().weights == f"sha256:{digest}"

    def test_a_model_of_the_roberta_family_loses_two_positions(self, backend: str, tmp_path: Path) -> None:
        folder = tiny_models.save_roberta(tmp_path)
        encoder = load(backend, folder)
        assert encoder.fingerprint().max_length == 64
        assert np.isfinite(encoder.encode_passages(["red fish " * 100])).all()
        with pytest.raises(InvalidArgument, match="at most 64 tokens"):
            load(backend, folder, max_length=65)

    def test_a_cross_encoder_is_refused(self, backend: str, tmp_path: Path) -> None:
        with pytest.raises(ModelUnavailable, match="set it as the reranker"):
            load(backend, tiny_models.save_cross_encoder(tmp_path))

    def test_a_broken_folder_is_named(self, backend: str, tiny: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelUnavailable, match="no weights"):
            load(backend, tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"not a model")
        (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            load(backend, tmp_path)

    @pytest.mark.skipif(models.resolve(EMBEDDED_ENCODER).folder is None, reason="the embedded encoder is not installed")
    @pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.9999), ("bfloat16", 0.9995)])
    def test_the_embedded_encoder_agrees_with_sentence_transformers(
        self, backend: str, dtype: str, cosine: float, converted: Path
    ) -> None:
        from sentence_transformers import SentenceTransformer

        encoder = load(backend, converted, encoder=EMBEDDED_ENCODER, dtype=dtype)
        reference = SentenceTransformer(str(models.resolve(EMBEDDED_ENCODER).fetch()), device="cpu")
        long = "Vitamin D supplements do not prevent fractures in adults, whatever their age. "
        texts = [*ENCODABLE[:10], *(long * (words // 11 + 1) for words in (11, 100, 300, 1_000, 10_000))]
        found = np.sum(encoder.encode_passages(texts) * reference.encode(texts, normalize_embeddings=True), axis=1)
        assert found.min() >= cosine
        assert encoder.fingerprint().model_dump(exclude={"model"}) == {
            "weights": models.PRESETS[EMBEDDED_ENCODER].weights,
            "dim": 384,
            "pooling": "mean",
            "query_prompt": "",
            "passage_prompt": "",
            "max_length": 256,
            "dtype": dtype,
        }


@pytest.mark.skipif(models.resolve(EMBEDDED_ENCODER).folder is None, reason="the embedded encoder is not installed")
def test_the_embedded_encoder_loads_without_a_network_and_without_a_word() -> None:
    program = """
import socket
def refuse(*args, **kwargs): raise SystemExit("tried to reach a network")
socket.socket.connect = socket.getaddrinfo = refuse
from shoal.encoders import load_encoder
from shoal.settings import EncoderSettings
load_encoder(EncoderSettings(device="cpu")).encode_queries(["red fish"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestHashing:
    def test_similar_texts_have_similar_vectors(self) -> None:
        encoder = load_encoder(EncoderSettings(encoder="hashing"))
        question, answer, inflected, other = encoder.encode_passages(
            [
                "how to train a neural network",
                "training neural networks takes patience and how to do it is an art",
                "trained networks are neural",
                "the recipe calls for two eggs and flour",
            ]
        )
        assert question @ answer > question @ other + 0.2
        assert question @ inflected > question @ other + 0.2
        assert np.array_equal(*encoder.encode_passages(["Red, FISH!", "red fish"]))

    def test_dimension_is_part_of_the_name(self) -> None:
        assert load_encoder(EncoderSettings(encoder="hashing:64")).dim == 64
        for name in ("hashing:0", "hashing:-1", "hashing:x", "hashing:99999999"):
            with pytest.raises(InvalidArgument, match="hashing:DIM"):
                load_encoder(EncoderSettings(encoder=name))

    def test_vectors_are_the_same_in_every_process(self) -> None:
        program = """
import hashlib, sys
from shoal.encoders import load_encoder
from shoal.settings import EncoderSettings
encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
print(hashlib.sha256(encoder.encode_passages(["red fish", "", "日本語 naïve " * 9]).tobytes()).hexdigest())
"""
        digests = {
            subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            ).stdout
            for seed in ("0", "1")
        }
        assert len(digests) == 1

    @given(st.lists(st.text(max_size=40), max_size=20))
    def test_a_text_has_one_vector_whatever_is_beside_it(self, texts: list[str]) -> None:
        encoder = load_encoder(EncoderSettings(encoder="hashing:16"))
        together = encoder.encode_passages(texts)
        assert np.isfinite(together).all()
        for text, vector in zip(texts, together, strict=True):
            assert np.array_equal(encoder.encode_passages([text])[0], vector)


@given(st.lists(st.integers(0, 600), max_size=50), st.integers(256, 4096), st.one_of(st.none(), st.integers(0, 1000)))
def test_token_batches_hold_every_text_once_within_the_budget(
    lengths: list[int], budget: int, padding: int | None
) -> None:
    batches = list(token_batches(np.array(lengths, dtype=np.int64), budget, padding))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        tokens = [lengths[row] for row in batch]
        assert len(batch) == 1 or len(batch) * max(tokens) <= budget
        assert padding is None or len(batch) * max(tokens) - sum(tokens) <= padding


class TestPlacement:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = monkeypatch.setattr
        self.has(cuda=False, bfloat16=True, openvino=True)

    def has(self, *, cuda: bool, bfloat16: bool, openvino: bool) -> None:
        self.set(placement, "has_gpu", lambda: cuda)
        self.set(placement, "has_bfloat16", lambda: bfloat16)
        self.set(placement, "has_openvino", lambda: openvino)

    @staticmethod
    def place(**options: Any) -> tuple[str, str, str]:
        placed = placement.place(InferenceSettings(**options))
        return placed.backend, placed.device, placed.dtype

    def test_a_gpu_is_taken_when_there_is_one(self) -> None:
        self.has(cuda=True, bfloat16=True, openvino=True)
        assert self.place() == ("torch", "cuda", "float16")
        assert self.place(device="cuda", dtype="bfloat16") == ("torch", "cuda", "bfloat16")
        assert self.place(device="cpu") == ("openvino", "cpu", "bfloat16")
        assert self.place(backend="openvino") == ("openvino", "cpu", "bfloat16")
        assert self.place(dtype="int8") == ("openvino", "cpu", "int8")

    def test_a_cpu_gets_the_fastest_that_it_has(self) -> None:
        assert self.place() == ("openvino", "cpu", "bfloat16")
        assert self.place(backend="torch") == ("torch", "cpu", "bfloat16")
        self.has(cuda=False, bfloat16=False, openvino=True)
        assert self.place() == ("openvino", "cpu", "float32")
        self.has(cuda=False, bfloat16=True, openvino=False)
        assert self.place() == ("torch", "cpu", "bfloat16")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "cuda"}, "torch sees no GPU"),
            ({"backend": "hashing"}, "use auto or one of openvino, torch"),
            ({"backend": "openvino", "dtype": "float16"}, "float16 needs backend=torch"),
            ({"backend": "torch", "dtype": "int8"}, "int8 needs backend=openvino"),
        ],
    )
    def test_what_cannot_be_had_is_refused(self, options: dict[str, str], message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            self.place(**options)

    def test_openvino_is_not_missed_in_silence(self) -> None:
        self.has(cuda=False, bfloat16=True, openvino=False)
        with pytest.raises(InvalidArgument, match="install shoal"):
            self.place(backend="openvino")


class TestOpenVino:
    def test_a_converted_model_is_loaded_without_torch(self, tiny: Path, cross_encoder: Path, tmp_path: Path) -> None:
        program = f"""
import sys
from shoal.encoders import load_encoder
from shoal.rerankers import load_reranker
from shoal.settings import EncoderSettings, RerankerSettings
options = dict(device="cpu", backend="openvino", model_cache_dir={str(tmp_path)!r})
load_encoder(EncoderSettings(encoder={str(tiny)!r}, **options)).encode_passage_tokens(["red fish", "the heron"])
load_reranker(RerankerSettings(reranker={str(cross_encoder)!r}, **options)).score("red fish", ["the heron"])
print(sorted({{"torch", "transformers", "sentence_transformers"}} & sys.modules.keys()))
"""
        told = [
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
            for _ in range(2)
        ]
        assert told == ["['sentence_transformers', 'torch', 'transformers']\n", "[]\n"]

    def test_a_change_of_the_configuration_is_a_model_of_its_own(self, tmp_path: Path) -> None:
        folder = tiny_models.save_bi_encoder(tmp_path / "one", "mean")
        (pooling,) = folder.glob("*_Pooling/config.json")
        mean = load("openvino", folder).encode_passages(["red fish"])
        pooling.write_text(pooling.read_text().replace("mean", "cls"))
        assert not np.allclose(load("openvino", folder).encode_passages(["red fish"]), mean, atol=1e-3)

    def test_what_computes_something_else_is_not_kept(self, tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
        head = conversion._traced

        def other(model: Any, function: Any, example: Any) -> Any:
            return head(model, lambda *tensors: function(*tensors).roll(1, -1), example)

        monkeypatch.setattr(conversion, "_traced", other)
        with pytest.raises(ModelUnavailable, match="not what this model does"):
            load("openvino", tiny, model_cache_dir=str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_a_model_is_converted_once(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"model_cache_dir": str(tmp_path / "cache"), "dtype": "bfloat16"}
        first = load("openvino", tiny, **options).encode_passages(ENCODABLE)
        assert len(list((tmp_path / "cache").iterdir())) == 1  # and no scratch folder
        monkeypatch.setattr(conversion, "convert", None)
        assert np.array_equal(load("openvino", tiny, **options).encode_passages(ENCODABLE), first)

    def test_a_disk_that_fills_up_meanwhile_is_named_and_nothing_else_computes_instead(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(conversion, "_save", full)
        with pytest.raises(ModelUnavailable, match=rf"kept in {tmp_path} \(No space left on device\).*model_cache_dir"):
            load("auto", tiny, model_cache_dir=str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_a_model_that_could_not_be_kept_is_refused_before_it_is_loaded(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: str, option: str) -> None:
            raise InvalidArgument(f"no files can be written in {folder}", param=option)

        (tmp_path / "file").touch()
        settings = {"encoder": str(tiny), "device": "cpu", "model_cache_dir": str(tmp_path / "file" / "models")}
        with pytest.raises(InvalidArgument, match=rf"file/models .*--model-cache-dir .*{tiny}.*--backend torch"):
            require_model_cache("encoder", str(tiny), EncoderSettings.model_validate(settings))
        require_model_cache("encoder", str(tiny), EncoderSettings.model_validate(settings | {"backend": "torch"}))
        full = EncoderSettings.model_validate(settings | {"model_cache_dir": str(tmp_path)})
        require_model_cache("encoder", str(tiny), full)
        load_encoder(full)
        monkeypatch.setattr("shoal.inference.model_cache.require_writable", refuse)  # as a disk that can only be read
        require_model_cache("encoder", str(tiny), full)
        with pytest.raises(InvalidArgument, match="no files can be written"):
            require_model_cache("cross_encoder", str(tiny), full)

    def test_int8_loses_little(self, converted: Path) -> None:
        exact = load("torch", converted, encoder=EMBEDDED_ENCODER)
        rounded = load("openvino", converted, encoder=EMBEDDED_ENCODER, dtype="int8")
        texts = [text for text in ENCODABLE if text.strip()]
        cosine = np.sum(exact.encode_passages(texts) * rounded.encode_passages(texts), axis=1)
        assert 0.99 < cosine.min() < 0.99999
        assert rounded.fingerprint().dtype == "int8"

    def test_auto_falls_back_to_torch(self, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*args: object) -> None:
            raise NotConvertible("cannot be converted")

        monkeypatch.setattr(conversion, "convert", refuse)
        options = {"model_cache_dir": str(tmp_path / "empty")}
        assert load("auto", tiny, **options).encode_queries(["red fish"]).shape == (1, 32)
        with pytest.raises(ModelUnavailable, match="cannot be converted"):
            load("openvino", tiny, **options)


def test_unknown_backends_are_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidArgument, match=r"use auto or one of .*hashing.*torch"):
        load_encoder(EncoderSettings(backend="nothing"))
