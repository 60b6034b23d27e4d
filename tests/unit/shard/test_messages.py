import pickle
from typing import Any, get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.filters import Compare
from shoal.modes import Mode
from shoal.records import TermWeights
from shoal.shard.messages import Hits, ShardHits, ShardQuery, ShardSearch, dense_queries

DIM = 4
TREES = [Compare("year", "gte", 2000), Compare("year", "lte", 1990)]
TERMS = [TermWeights(np.array(terms, np.int32), np.ones(len(terms), np.float32)) for terms in ([], [3, 9])]


@st.composite
def queries(draw: Any) -> ShardQuery:
    mode: Mode = draw(st.sampled_from(get_args(Mode)))
    numbers = draw(st.none() | st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM))
    vector = None if numbers is None else np.array(numbers, np.float32)
    params = draw(st.sampled_from(["", "nprobe=8"]))
    terms = draw(st.none() | st.sampled_from(TERMS))
    tree = draw(st.none() | st.sampled_from(TREES))
    return ShardQuery(draw(st.text(max_size=9)), vector, mode, tree, params, terms=terms)


def test_a_search_arrives_as_it_was_sent() -> None:
    @given(st.lists(queries(), max_size=6))
    def arrives(sent: list[ShardQuery]) -> None:
        search = pickle.loads(pickle.dumps(ShardSearch("v1", sent, 7, True)))
        assert (search.version, search.top_k, search.with_passages) == ("v1", 7, True)
        assert len(search.queries) == len(sent)
        for got, query in zip(search.queries, sent, strict=True):
            assert (got.text, got.mode, got.filter) == (query.text, query.mode, query.filter)
            assert got.search_params == query.search_params
            assert (got.terms is None) == (query.terms is None)
            if query.terms is not None:
                assert [array.tolist() for array in got.terms] == [array.tolist() for array in query.terms]
                assert [array.dtype for array in got.terms] == [np.int32, np.float32]
            assert (got.vector is None) == (query.vector is None)
            if query.vector is not None:
                assert got.vector.dtype == np.float32
                np.testing.assert_array_equal(got.vector, query.vector)

    arrives()


def test_a_message_is_hardly_more_than_the_vectors_and_texts_that_it_carries() -> None:
    vectors = np.ones((16, 384), np.float32)
    assert len(pickle.dumps(ShardSearch("v1", dense_queries(vectors), 100, False))) < vectors.nbytes + 500
    filtered = ShardSearch("v1", dense_queries(vectors, [TREES[0]] * 16), 100, False)
    assert len(pickle.dumps(filtered)) < vectors.nbytes + 700, "a shared filter is in it once"
    arrived = pickle.loads(pickle.dumps(filtered))
    assert len({id(query.filter) for query in arrived.queries}) == 1


def test_hits_arrive_as_they_were_sent() -> None:
    scores = np.array([[0.5, -np.inf]], np.float32)
    for row in (3, 2**40):
        hits = Hits(scores, np.array([[row, -1]]), [["p"]], None, {"lexical": scores})
        found = pickle.loads(pickle.dumps(ShardHits({"dense": hits}, [9])))
        assert found.matches == [9]
        got = found.by_retriever["dense"]
        assert (got.rows.dtype, got.rows.tolist(), got.ids, got.passages) == (np.int64, [[row, -1]], [["p"]], None)
        np.testing.assert_array_equal(got.scores, scores)
        np.testing.assert_array_equal(got.other_scores["lexical"], scores)
