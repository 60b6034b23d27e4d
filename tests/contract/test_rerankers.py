"""One suite for every file of shoal/rerankers/, and what is particular to each of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.inference import models
from shoal.records import FloatArray
from shoal.rerankers import Reranker, load_reranker, rerankers
from shoal.settings import EMBEDDED_ENCODER, EncoderSettings, RerankerSettings
from shoal.testing.models import save_cross_encoder
from shoal.testing.reranker_contract import PAIRS, QUERIES, RerankerContract
from tests.support import tiny_models


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_cross_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "query: ", "document": "passage: "}
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts=prompts)


def load(name: str, **options: Any) -> Reranker:
    return load_reranker(RerankerSettings(reranker=name, device="cpu", **{"dtype": "float32", **options}))


class TestEveryReranker(RerankerContract):
    @pytest.fixture(scope="class", params=[*rerankers(), "late_interaction:hashing"])
    def reranker(self, request: pytest.FixtureRequest, cross_encoder: Path, bi_encoder: Path) -> Reranker:
        name, _, encoder = request.param.partition(":")
        return load(str(cross_encoder) if name == "cross_encoder" else name, encoder=encoder or str(bi_encoder))


class TestCrossEncoder:
    @pytest.mark.parametrize("backend", ["openvino", "torch"])
    @pytest.mark.parametrize("activation", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"])
    def test_scores_are_those_of_sentence_transformers(self, backend: str, activation: str, tmp_path: Path) -> None:
        from sentence_transformers import CrossEncoder

        folder = tiny_models.save_cross_encoder(tmp_path, activation=activation)
        pairs = [(query, passage) for query, passage in PAIRS if "\ud800" not in passage]
        expected = CrossEncoder(str(folder), device="cpu").predict(pairs)
        assert np.ptp(expected) > 0.1
        for batch_tokens in (256, 8192):
            np.testing.assert_allclose(
                load(
                    str(folder),
                    batch_tokens=batch_tokens,
                    backend=backend,
                    threads=2,
                    model_cache_dir=str(tmp_path / "converted"),
                ).score_pairs(pairs),
                expected,
                atol=1e-4,
            )

    @pytest.mark.skipif(models.resolve(EMBEDDED_ENCODER).folder is None, reason="the embedded encoder is not installed")
    @pytest.mark.parametrize("backend", ["openvino", "torch"])
    def test_bfloat16_changes_scores_little(self, backend: str, tmp_path: Path) -> None:
        from sentence_transformers import CrossEncoder

        folder = save_cross_encoder(tmp_path / "model")
        words = "vitamin d supplements do not prevent fractures in adults whatever their age and weight "
        pairs = [(QUERIES[1], words * (length // 13 + 1)) for length in (1, 10, 100, 300, 1_000, 10_000)]
        pairs += [(query, passage) for query, passage in PAIRS if "\ud800" not in passage]
        expected = CrossEncoder(str(folder), device="cpu").predict(pairs)
        options = {"backend": backend, "threads": 2, "model_cache_dir": str(tmp_path / "converted")}
        np.testing.assert_allclose(
            load(str(folder), dtype="bfloat16", **options).score_pairs(pairs), expected, atol=0.02
        )

    def test_max_length_is_read_of_a_pair(self, cross_encoder: Path) -> None:
        from sentence_transformers import CrossEncoder

        pairs = [("red fish", "a blue fish " * 30), ("otter", "the heron")]
        expected = CrossEncoder(str(cross_encoder), device="cpu", max_length=16).predict(pairs)
        np.testing.assert_allclose(load(str(cross_encoder), max_length=16).score_pairs(pairs), expected, atol=1e-4)
        with pytest.raises(InvalidArgument, match="at most 64 tokens"):
            load(str(cross_encoder), max_length=65)

    def test_models_without_one_score_are_refused(self, bi_encoder: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelUnavailable, match="no head"):
            load(str(bi_encoder))
        with pytest.raises(ModelUnavailable, match="3 scores"):
            load(str(tiny_models.save_cross_encoder(tmp_path, labels=3)))
        with pytest.raises(ModelUnavailable, match="check the path"):
            load("./no/such/reranker")
        with pytest.raises(InvalidArgument, match="nothing to load"):
            load("none")


class TestLateInteraction:
    def test_scores_follow_the_formula(self, bi_encoder: Path) -> None:
        """Token by token in NumPy, over the vectors that sentence-transformers gives."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(bi_encoder), device="cpu")

        def vectors(text: str, prompt: str) -> tuple[FloatArray, list[FloatArray]]:
            tokens = model.encode([text], prompt=prompt, output_value="token_embeddings")[0].numpy()[3:-1]
            pooled = model.encode(text, prompt=prompt, normalize_embeddings=True)
            return pooled, [token / np.linalg.norm(token) for token in tokens]

        passages = ["a red fish and a blue fish", "the heron and the otter", "vitamin d and bone disease"]
        expected = []
        for query in ("red fish", "what does vitamin d do"):
            query_vector, query_tokens = vectors(query, "query: ")
            for passage in passages:
                vector, tokens = vectors(passage, "passage: ")
                late = np.mean([max(float(token @ other) for other in tokens) for token in query_tokens])
                expected.append(0.25 * float(query_vector @ vector) + 0.75 * late)
        pairs = [(query, passage) for query in ("red fish", "what does vitamin d do") for passage in passages]
        np.testing.assert_allclose(
            load("late_interaction", encoder=str(bi_encoder)).score_pairs(pairs), expected, atol=1e-3
        )

    def test_what_is_kept_of_passages_is_bounded_and_changes_no_score(self) -> None:
        passages = [f"passage {number} of an otter" for number in range(600)]
        expected = load("late_interaction", encoder="hashing:32", token_cache_bytes=0).score("an otter", passages)
        for kept in (0, 1_000, 100_000_000):
            reranker: Any = load("late_interaction", encoder="hashing:32", token_cache_bytes=kept)
            for _ in range(2):
                assert np.array_equal(reranker.score("an otter", passages), expected)
            entries = reranker._cache._entries
            assert sum(entry.tokens.nbytes + entry.vector.nbytes for entry in entries.values()) <= kept
            assert len(entries) == {0: 0, 100_000_000: 600}.get(kept, len(entries))

    def test_a_passage_that_is_kept_is_not_encoded_again(self) -> None:
        reranker: Any = load("late_interaction", encoder="hashing:32")
        encoded: list[str] = []
        encode = reranker._encoder.encode_passage_tokens
        reranker._encoder.encode_passage_tokens = lambda texts: encoded.extend(texts) or encode(texts)
        reranker.score_pairs([("one", "a"), ("two", "a"), ("two", "b")])
        reranker.score_pairs([("three", "a"), ("three", "c")])
        passages = [text for text in encoded if text not in ("one", "two", "three")]  # both take the same way here
        assert passages == ["a", "b", "c"]

    def test_the_first_part_is_the_stage_one_score(self) -> None:
        encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
        scores = load("late_interaction", encoder="hashing:64").score("otter", ["otter", "otter heron"])
        stage_one = encoder.encode_passages(["otter", "otter heron"]) @ encoder.encode_queries(["otter"])[0]
        np.testing.assert_allclose(scores, 0.25 * stage_one + 0.75, atol=1e-3)


def test_overlap_prefers_more_of_the_query_in_fewer_words() -> None:
    scores = load("overlap").score(
        "Vitamin D and bone health",
        [
            "Bone health depends on vitamin D",
            "vitamin d is discussed here",
            "Bone health depends on vitamin D, " + "among many other things " * 40,
            "nothing to see",
        ],
    )
    assert scores[0] > scores[2] > scores[1] > scores[3] == 0
    assert scores.max() < 1
