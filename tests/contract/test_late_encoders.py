"""Multi-vector models beside an encoder, in small: token vectors and scores are those that sentence-transformers gives
the same folder."""

import random
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

import shoal
from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.errors import ModelUnavailable
from shoal.index_root import versions
from shoal.settings import EncoderSettings
from tests.support import current_models, tiny_models
from tests.support.building import Build, jsonl
from tests.support.local_server import serving_locally

TEXTS = [
    "red fish!",
    "",
    "the heron eats an otter " * 40,
    "naïve café 日本語 🎉 \ud800",
    "vitamin, of the blue disease .",
]
QUERY = "red fish bone?"
ROUNDING = 0.02
"""Of a score by codes of 8 bits, in 16 dimensions."""


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "expands"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return current_models.save_multi_vector(tmp_path_factory.mktemp("late"), expands=request.param)


def load(late: Path | str, encoder: str = "hashing:8", **options: Any) -> Encoder:
    settings = {"device": "cpu", "dtype": "float32", "threads": 2} | options
    return load_encoder(EncoderSettings(encoder=encoder, late_encoder=str(late), **settings))


def reference(folder: Path) -> Any:
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)


def expected_scores(model: Any, query: str, passages: list[str]) -> NDArray[np.floating]:
    """What sentence-transformers gives, as a mean over the tokens of the query."""
    queries = model.encode_query([query])
    return np.asarray(model.similarity(queries, model.encode_document(passages)))[0] / len(queries[0])


def test_token_vectors_are_those_of_sentence_transformers(folder: Path) -> None:
    model, encoder = reference(folder), load(folder)
    assert isinstance(encoder, TokenEncoder)
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]
    alone = load_encoder(EncoderSettings(encoder="hashing:8"))
    for made, expected, vectors in (
        (encoder.encode_query_tokens(TEXTS), model.encode_query(texts), alone.encode_queries(TEXTS)),
        (encoder.encode_passage_tokens(TEXTS), model.encode_document(texts), alone.encode_passages(TEXTS)),
    ):
        np.testing.assert_array_equal([text.vector for text in made], vectors)
        for text, tokens in zip(made, expected, strict=True):
            np.testing.assert_allclose(text.tokens, tokens.numpy(), atol=1e-4)
    assert encoder.encode_passage_tokens([]) == []
    # Nothing but what does not count is one token like none.
    skipped = encoder.encode_passage_tokens(["..."])[0].tokens
    assert skipped.shape[1] == 16
    assert len(skipped) >= 1


@pytest.fixture(scope="module")
def roots(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Indexes of the same 40 passages over so many shards."""
    draw, place = random.Random(5), tmp_path_factory.mktemp("roots")
    lines = [{"id": f"p{n:02d}", "text": " ".join(draw.choices(tiny_models.WORDS, k=6)) + "!"} for n in range(40)]
    source = jsonl(place / "source.jsonl", lines)
    stored = {"late_interaction": "stored", "late_dims": 16, "late_bits": 8, "device": "cpu", "dtype": "float32"}
    made = {}
    for shards in (1, 3):
        build = Build(place / str(shards), source, late_encoder=str(folder), shards=shards, **stored)
        versions.activate(build.storage, build.embed().publish())
        made[shards] = place / str(shards)
    return made


def test_answers_have_the_scores_of_sentence_transformers_over_any_number_of_shards(
    folder: Path, roots: dict[int, Path]
) -> None:
    model = reference(folder)
    answers = {}
    for shards, root in roots.items():
        with shoal.open(root, device="cpu", dtype="float32") as index:
            for rerank, tolerance in (("late", ROUNDING), ("read", 2e-3)):
                results = index.search(QUERY, mode="hybrid", top_k=40, top_n=40, rerank=rerank).results
                expected = expected_scores(model, QUERY, [result.text or "" for result in results])
                assert len(results) == 40
                assert np.ptp(expected) > 0.03
                np.testing.assert_allclose([result.score for result in results], expected, atol=tolerance)
                answers[shards, rerank] = {result.id: result.score for result in results}
    for rerank in ("late", "read"):
        assert answers[1, rerank] == pytest.approx(answers[3, rerank], abs=1e-5)


def test_a_server_gives_the_same_answers_and_takes_writes(folder: Path, roots: dict[int, Path]) -> None:
    asked = {"query": QUERY, "top_k": 41, "top_n": 41, "rerank": "late"}
    with shoal.open(roots[3], device="cpu", dtype="float32") as index:
        here = {result.id: result.score for result in index.search(**asked).results}
    with (
        serving_locally(roots[3], device="cpu", dtype="float32") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        answer = client.post("/v1/search", json=asked).json()
        assert {result["id"]: result["score"] for result in answer["results"]} == pytest.approx(here, abs=1e-6)
        embedded = client.post(
            "/v1/embed", json={"inputs": [QUERY], "input_type": "query", "include": ["vector", "tokens"]}
        ).json()
        tokens = reference(folder).encode_query([QUERY])[0].numpy()
        np.testing.assert_allclose(embedded["data"][0]["tokens"], tokens, atol=1e-3)
        text = "a red fish, and bone."
        written = client.post("/v1/passages", json={"passages": [{"id": "new", "text": text}]}).json()
        answer = client.post("/v1/search", json=asked | {"min_position": written["position"]}).json()
        scores = {result["id"]: result["score"] for result in answer["results"]}
        assert len(scores) == 41
        assert scores["new"] == pytest.approx(float(expected_scores(reference(folder), QUERY, [text])[0]), abs=ROUNDING)


def test_the_fingerprint_names_both_models_and_loads_them_again(folder: Path) -> None:
    alone, both = load_encoder(EncoderSettings(encoder="hashing:8")).fingerprint(), load(folder).fingerprint()
    assert both.late is not None
    assert "late" not in alone.model_dump()
    assert not both.matches(alone)
    assert both.digest != alone.digest
    expands = folder.name.endswith("True")
    assert both.late.dimensions == 16
    assert both.late.query_length == (32 if expands else current_models.POSITIONS)
    assert both.late.passage_length == both.token_length == current_models.POSITIONS
    assert (both.late.query_prompt, both.late.passage_prompt) == ("[Q] ", "[D] ")
    assert ("fixed" in both.late.expansion, '! "' in both.late.modules) == (expands, expands)
    again = EncoderSettings(**both.options, device="cpu", dtype="float32")
    assert load_encoder(again).fingerprint() == both
    moved = both.model_copy(update={"late": both.late.model_copy(update={"model": "/elsewhere"})})
    assert moved.matches(both)
    assert moved.digest == both.digest
    other = both.model_copy(update={"late": both.late.model_copy(update={"weights": "sha256:0"})})
    assert not other.matches(both)


def test_a_sparse_model_stands_beside_both(folder: Path, tmp_path: Path) -> None:
    sparse = tiny_models.save_sparse(tmp_path, inference_free=True)
    both, late = load(folder, sparse_encoder=str(sparse)), load(folder)
    assert both.fingerprint().late == late.fingerprint().late
    assert both.fingerprint().sparse is not None
    assert isinstance(both, TokenEncoder)
    assert isinstance(late, TokenEncoder)
    np.testing.assert_array_equal(
        both.encode_query_tokens(["red fish"])[0].tokens, late.encode_query_tokens(["red fish"])[0].tokens
    )


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no multi-vector model"):
        load(tiny_models.save_bi_encoder(tmp_path))
    with pytest.raises(ModelUnavailable, match="set late_encoder to where the same model lies here"):
        load(tmp_path / "nothing")
