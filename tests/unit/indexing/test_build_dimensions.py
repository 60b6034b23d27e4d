"""Indexes of fewer dimensions than their encoder has."""

from pathlib import Path

import numpy as np
import pytest

import shoal
from shoal.encoders import check_dimensions, load_encoder
from shoal.errors import InvalidArgument
from shoal.index_root.manifest import Manifest
from shoal.records import FloatArray
from shoal.settings import BuildSettings, EncoderSettings
from tests.support import tiny_models
from tests.support.building import jsonl, records
from tests.support.incremental import Build, publish

DIM, WHOLE = 16, 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"), prompts={"query": "query: "})


def build(folder: Path, model: Path, dimensions: int | None) -> tuple[Manifest, list[str]]:
    source = jsonl(folder / "source.jsonl", records(40))
    options = {"encoder": str(model), "backend": "torch", "device": "cpu", "dtype": "float32", "dimensions": dimensions}
    return publish(Build(folder / "index", source, **options))


def cut(model: Path, text: str, prompt: str) -> FloatArray:
    """The vector that sentence-transformers makes of a text, cut and normalised."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(model), device="cpu", truncate_dim=DIM)
    vector: FloatArray = reference.encode(text, prompt=prompt, normalize_embeddings=True)
    return vector


def test_an_index_is_built_and_searched_with_vectors_that_are_cut(model: Path, tmp_path: Path) -> None:
    manifest, encoded = build(tmp_path, model, DIM)
    assert (manifest.encoder.dim, len(encoded)) == (DIM, 40)
    assert build(tmp_path, model, DIM)[1] == []  # the same plan
    options = {"backend": "torch", "device": "cpu", "dtype": "float32", "reranker": "none"}
    with shoal.open(str(tmp_path / "index"), **options) as index:
        answer = index.search("red fish", mode="dense", top_k=40, top_n=40)
        assert index.describe().dim == DIM
        (made,) = index.embed(["red fish"], input_type="query").vectors
    query = cut(model, "red fish", "query: ")
    np.testing.assert_allclose(made, query, atol=1e-5)
    for result in (answer.results[0], answer.results[-1]):
        assert result.score == pytest.approx(float(query @ cut(model, str(result.text), "")), abs=1e-3)
    other, encoded = build(tmp_path, model, None)
    assert (other.encoder.dim, len(encoded)) == (WHOLE, 40)
    assert not other.encoder.matches(manifest.encoder)


def test_all_dimensions_are_what_a_build_without_the_option_makes(model: Path) -> None:
    options = {"encoder": str(model), "backend": "torch", "device": "cpu"}
    plain = load_encoder(EncoderSettings(**options)).fingerprint()
    assert load_encoder(EncoderSettings(**options, dimensions=WHOLE)).fingerprint() == plain
    assert load_encoder(EncoderSettings(**plain.options, backend="torch", device="cpu")).fingerprint() == plain


def test_more_dimensions_than_there_are_are_refused(model: Path) -> None:
    settings = BuildSettings(source="s", index="i", encoder="hashing:16", dimensions=8)
    with pytest.raises(InvalidArgument, match="dimensions=8, but the encoder hashing:16 gives 16"):
        check_dimensions(settings, load_encoder(settings).fingerprint())
    wide = EncoderSettings(encoder=str(model), backend="torch", device="cpu", dimensions=WHOLE + 1)
    with pytest.raises(InvalidArgument, match=f"gives {WHOLE}: ask for fewer"):
        check_dimensions(wide, load_encoder(wide).fingerprint())


def test_token_vectors_stay_whole(model: Path) -> None:
    encoder = load_encoder(EncoderSettings(encoder=str(model), backend="torch", device="cpu", dimensions=DIM))
    (text,) = encoder.encode_query_tokens(["red fish"])  # type: ignore[attr-defined]
    assert (text.vector.shape, text.tokens.shape) == ((DIM,), (2, WHOLE))
    assert np.linalg.norm(text.vector) == pytest.approx(1, abs=1e-5)
