"""Vectors that requests bring, and what they look for."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shoal
from shoal.client.bodies import search_request
from shoal.engine.subjects import Subject, read_subjects
from shoal.engine.vectors import read_vector, read_vectors
from shoal.errors import InvalidArgument
from tests.support.indexes import passages, publish

COUNT = 200
NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


def packed(numbers: Any) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@given(NUMBERS)
def test_a_vector_is_normalised_as_the_index_does_it_however_it_is_written(numbers: list[float]) -> None:
    length = np.linalg.norm(np.array(numbers, np.float64))
    if not length:
        with pytest.raises(InvalidArgument, match="vector should not have zeros only"):
            read_vector(numbers)
        return
    expected = (np.array(numbers, np.float64) / length).astype(np.float32)
    for written in (numbers, packed(numbers), json.loads(json.dumps(numbers))):
        vector = read_vector(written)
        assert vector.dtype == np.float32
        np.testing.assert_array_equal(vector, expected)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("given_vector", "message"),
    [
        ("AAA", "is no base64"),
        ("AA==", "base64 of float32 numbers, 4 bytes each: it has 1 bytes"),
        (packed([1, float("nan")]), "finite numbers only"),
        (packed([float("-inf")]), "finite numbers only"),
        ([1e39], "finite numbers only, within float32"),
        (packed([0, 0]), "zeros only"),
        ("größe", "is no base64"),
    ],
)
def test_what_is_no_vector_is_named(given_vector: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        read_vector(given_vector, "vector[3]")
    assert refused.value.param == "vector[3]"


def test_a_list_of_vectors_is_told_from_a_list_of_numbers() -> None:
    assert [len(vectors) for vectors, _ in (read_vectors([1.0, 2.0]), read_vectors(packed([1, 2])))] == [1, 1]
    for several in ([[1.0, 2.0], packed([3, 4])], [packed([1, 2]), [3.0, 4.0]]):
        vectors, are_several = read_vectors(several)  # type: ignore[arg-type]
        assert (len(vectors), are_several) == (2, True)
    with pytest.raises(InvalidArgument, match=r"vector\[1\] should have 2 numbers, as the first vector has, not 1"):
        read_vectors([[1.0, 2.0], [1.0]])


def test_what_queries_look_for() -> None:
    assert read_subjects("fish", None, None) == [Subject("fish")]
    assert read_subjects(["fish", "otter"], None, None) == [Subject("fish"), Subject("otter")]
    assert read_subjects(None, None, "p1") == [Subject("", None, "p1")]
    assert read_subjects("fish", None, "p1") == [Subject("fish", None, "p1")]
    (alone,) = read_subjects(None, [3.0, 4.0], None)
    assert alone.query == ""
    np.testing.assert_allclose(alone.vector, [0.6, 0.8])
    (beside,) = read_subjects("fish", packed([3, 4]), None)
    assert beside.query == "fish"
    first, second = read_subjects(["fish", "otter"], [[3.0, 4.0], [4.0, 3.0]], None)
    np.testing.assert_allclose([first.vector, second.vector], [[0.6, 0.8], [0.8, 0.6]])


def test_arrays_are_sent_as_base64() -> None:
    array = np.array([0.5, 1.5], np.float64)
    assert search_request(None, {"vector": array}) == {"vector": packed([0.5, 1.5])}
    assert search_request("fish", {"vector": [0.5, 1], "top_k": 3}) == {
        "query": "fish",
        "vector": [0.5, 1],
        "top_k": 3,
    }
    two = [packed([0.5, 1.5])] * 2
    assert search_request(None, {"vector": np.stack([array, array])}) == {"vector": two}
    assert search_request(None, {"vector": [array, array]}) == {"vector": two}
    assert search_request(None, {"vector": "AAAA"}) == {"vector": "AAAA"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shoal.Index]:
    root: Path = tmp_path_factory.mktemp("vectors") / "index"
    publish(root, "v1", passages(COUNT))
    with shoal.open(root, reranker="none") as opened:
        yield opened


WORDS = st.lists(
    st.sampled_from(
        ["the", "black", "otter", "green", "snail", "number", "n8", "n33", "n59", "heron", "größe", "日本"]
    ),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(words=WORDS, top_k=st.integers(1, 60))
def test_the_vector_of_a_text_is_answered_as_the_text(index: shoal.Index, words: list[str], top_k: int) -> None:
    text = " ".join(words)
    (vector,) = index.embed([text], "query").vectors
    by_text = index.search(text, mode="dense", top_k=top_k).results
    by_vector = index.search(vector=vector, top_k=top_k).results
    assert [(result.id, result.score) for result in by_vector] == [(result.id, result.score) for result in by_text]
