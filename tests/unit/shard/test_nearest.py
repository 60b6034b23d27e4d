"""Exact search against one sort by numpy, over vectors whose products are whole numbers: ties are the rule."""

from collections.abc import Iterator, Sequence

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.indexes._faiss import FaissIndex
from shoal.records import FloatArray, RowArray
from shoal.shard import nearest
from shoal.shard.nearest import ExactSearch, inner_products

DIM = 3
vectors_of = st.lists(st.tuples(*[st.integers(-1, 1)] * DIM), max_size=70)
query_batches = st.lists(st.tuples(*[st.integers(-2, 2)] * DIM), min_size=1, max_size=6)


class Corpus:
    """Vectors with ids that do not ascend with the rows."""

    def __init__(self, vectors: Sequence[tuple[int, ...]]) -> None:
        self.vectors = np.array(vectors, np.float32).reshape(-1, DIM)
        names = [f"p{number}" for number in range(len(vectors))]
        self.names = np.random.default_rng(5).permutation(names).tolist() if names else []
        index = faiss.IndexFlatIP(DIM)
        index.add(self.vectors)
        self.exact = ExactSearch(FaissIndex(index, 1), self.ids)

    def ids(self, rows: RowArray) -> pa.StringArray:
        assert (np.diff(rows) > 0).all()
        return pa.array([self.names[row] for row in rows.tolist()], pa.string())

    def sorted(self, query: FloatArray, rows: Sequence[int], top_k: int) -> list[tuple[float, str]]:
        scored = [(float(self.vectors[row] @ query), self.names[row]) for row in rows]
        return sorted(scored, key=lambda entry: (-entry[0], entry[1]))[:top_k]

    def named(self, found: tuple[FloatArray, RowArray]) -> list[list[tuple[float, str]]]:
        lines = []
        for scores, rows in zip(*found, strict=True):
            count = int((rows >= 0).sum())
            assert (rows[count:] == -1).all()
            assert np.isneginf(scores[count:]).all()
            pairs = zip(scores[:count].tolist(), rows[:count].tolist(), strict=True)
            lines.append([(score, self.names[row]) for score, row in pairs])
        return lines


@pytest.fixture(params=[(0, 8), (16, 2048)], ids=["all rows", "spare rows"], scope="module")
def spare(request: pytest.FixtureRequest) -> Iterator[None]:
    """By what ties at the cut are mostly told apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_SPARE", request.param[0])
        patch.setattr(nearest, "_BLOCK", request.param[1])
        yield


@given(vectors_of, query_batches, st.integers(1, 80), st.randoms(use_true_random=False))
def test_the_best_are_those_of_one_sort_whatever_is_selected(
    spare: None, vectors: list[tuple[int, ...]], asked: list[tuple[int, ...]], top_k: int, random: object
) -> None:
    corpus, queries = Corpus(vectors), np.array(asked, np.float32)
    everything = range(len(vectors))
    some = [row for row in everything if random.random() < 0.6]  # type: ignore[attr-defined]
    mask = np.zeros(len(vectors), np.bool_)
    mask[some] = True
    found = [
        (everything, corpus.exact.search(queries, top_k)),
        (some, corpus.exact.search(queries, top_k, np.packbits(mask, bitorder="little"))),
        (some, corpus.exact.scan(queries, top_k, np.array(some, np.int64))),
    ]
    for rows, (scores, places) in found:
        assert scores.dtype == np.float32
        assert places.dtype == np.int64
        assert scores.shape == places.shape == (len(asked), top_k)
        wanted = [corpus.sorted(query, rows, top_k) for query in queries]
        assert corpus.named((scores, places)) == wanted


@pytest.mark.parametrize("dim", [1, 7, 64, 384])
def test_a_passage_has_the_same_score_whatever_it_is_scored_with(dim: int) -> None:
    chance = np.random.default_rng(dim)
    vectors, queries = (chance.standard_normal((count, dim)).astype(np.float32) for count in (50, 9))
    alone = [[float(inner_products(vector[None], query)[0]) for vector in vectors] for query in queries]
    assert [inner_products(vectors, query).tolist() for query in queries] == alone
    both = np.repeat(vectors[None], len(queries), axis=0)
    assert inner_products(both, queries).tolist() == alone


@pytest.mark.parametrize("copies", [5, 40, 1000])
def test_equal_vectors_are_cut_by_id_at_every_length_and_in_every_batch(copies: int) -> None:
    """Vectors as an encoder makes them, whose products FAISS rounds in one way alone and in another together."""
    chance = np.random.default_rng(1)
    distinct = chance.standard_normal((300, 384)).astype(np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    queries = distinct[:8] + chance.standard_normal((8, 384)).astype(np.float32) / 40
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    order = chance.permutation(np.concatenate([np.arange(300), np.repeat(np.arange(8), copies)]))
    names = [f"p{number:05d}" for number in chance.permutation(len(order))]
    index = faiss.IndexFlatIP(384)
    index.add(distinct[order])
    search = ExactSearch(FaissIndex(index, 1), lambda rows: pa.array([names[row] for row in rows.tolist()])).search
    lengths = (1, 3, copies + 1)
    together = {top_k: search(queries, top_k) for top_k in lengths}
    for query in range(8):
        same = [names[row] for row in np.flatnonzero(order == query)]
        for top_k in lengths:
            alone = search(queries[query : query + 1], top_k)
            for scores, rows in (alone, [part[[query]] for part in together[top_k]]):
                assert [names[row] for row in rows[0]] == sorted(same)[:top_k]
                assert len(set(scores[0].tolist())) == 1


def test_an_index_that_cannot_give_vectors_back_answers_as_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus([(1, 0, 0), (0, 1, 0), (1, 1, 0)])

    def refuse(rows: RowArray) -> FloatArray:
        raise InvalidArgument("cannot give vectors back")

    monkeypatch.setattr(corpus.exact.index, "vectors", refuse)
    _, rows = corpus.exact.search(np.array([[2, 1, 0]], np.float32), 2)
    assert rows.tolist() == [[2, 0]]
