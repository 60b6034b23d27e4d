"""What is said where a framework is not installed."""

import pytest

from shoal.client.answers import SearchResult
from shoal.errors import InvalidArgument
from shoal.integrations import extra_named, metadata_of


def test_a_framework_that_is_not_there_is_named_with_its_extra() -> None:
    message = r"no module no_such_framework: pip install 'shoal\[langchain\]'"
    with pytest.raises(InvalidArgument, match=message), extra_named("langchain"):
        import no_such_framework  # noqa: F401


def test_a_title_is_metadata_where_there_is_one() -> None:
    result = SearchResult(id="a", score=1.0, retrieval_score=1.0, retrieval_rank=1, metadata={"year": 2020})
    assert metadata_of(result) == {"year": 2020}
    assert metadata_of(result.model_copy(update={"title": "Rest"})) == {"year": 2020, "title": "Rest"}
    assert metadata_of(result.model_copy(update={"metadata": None})) == {}
