"""By which names a model may be asked for, and what the others are told."""

from dataclasses import replace

import pytest

from serve.dialects.common.model_names import ServedModels
from shoal.engine.description import IndexDescription, ModelNames
from shoal.errors import InvalidArgument, NotFound
from tests.support.manifests import describe


def description(encoder: str = "all-MiniLM-L6-v2", reranker: str | None = "bge-reranker-v2-m3") -> IndexDescription:
    described = IndexDescription.of(describe("v1", [], dim=8), None, reranker, None)
    return replace(described, models=ModelNames(encoder, reranker))


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (None, "all-MiniLM-L6-v2"),
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("text-embedding-3-small", "all-MiniLM-L6-v2"),
    ],
)
def test_a_model_is_known_by_its_name_its_repository_and_its_aliases(asked: str | None, served: str) -> None:
    models = ServedModels(["text-embedding-3-small=sentence-transformers/all-MiniLM-L6-v2", "other = elsewhere"])
    assert models.check_encoder(asked, description()) == served


def test_another_model_is_refused_with_what_is_served_and_the_option() -> None:
    models = ServedModels(["other=elsewhere"])
    with pytest.raises(NotFound) as refused:
        models.check_reranker("rerank-v3.5", description())
    assert refused.value.param == "model"
    assert "the reranker is 'bge-reranker-v2-m3'" in refused.value.message
    assert "--model-alias rerank-v3.5=bge-reranker-v2-m3" in refused.value.message
    with pytest.raises(NotFound, match="another name of 'elsewhere' here, and the encoder is 'all-MiniLM-L6-v2'"):
        models.check_encoder("other", description())
    with pytest.raises(NotFound, match=r"x{100}\.\.\."):
        models.check_encoder("x" * 100_000, description())


def test_an_encoder_is_no_reranker() -> None:
    models = ServedModels([])
    with pytest.raises(NotFound):
        models.check_reranker("all-MiniLM-L6-v2", description())
    with pytest.raises(InvalidArgument, match="no reranker"):
        models.check_reranker(None, description(reranker=None))


def test_every_name_of_a_model_is_listed() -> None:
    models = ServedModels(["a=all-MiniLM-L6-v2", "b=elsewhere", "c=all-MiniLM-L6-v2"])
    assert models.names_of("all-MiniLM-L6-v2") == ["all-MiniLM-L6-v2", "a", "c"]
