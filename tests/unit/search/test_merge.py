from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import Passage
from shoal.search.merge import merge
from shoal.shard.messages import Hits


def hits_of(passages: Sequence[tuple[str, float]], top_k: int, *, with_passages: bool = False, width: int = 0) -> Hits:
    """What a shard with these passages answers, padded to `width` columns."""
    order = sorted(range(len(passages)), key=lambda row: (-passages[row][1], passages[row][0]))[:top_k]
    scores = np.full((1, max(width, len(order))), -np.inf, np.float32)
    rows = np.full_like(scores, -1, dtype=np.int64)
    scores[0, : len(order)] = [passages[row][1] for row in order]
    rows[0, : len(order)] = order
    ids = [passages[row][0] for row in order]
    return Hits(scores, rows, [ids], [[Passage(id_, id_) for id_ in ids]] if with_passages else None)


# Few distinct scores, so that ties are the rule; float32 so that they survive the trip through the arrays.
scores = st.one_of(st.sampled_from([0.0, -0.0, 0.5, -1.0]), st.floats(-1, 1, width=32))
corpora = st.dictionaries(st.text(min_size=1, max_size=6), scores, max_size=40).map(lambda corpus: list(corpus.items()))


@given(corpora, st.integers(1, 7), st.integers(1, 50), st.randoms(use_true_random=False), st.booleans())
def test_any_sharding_gives_the_unsharded_order(
    corpus: list[tuple[str, float]], shards: int, top_k: int, random: object, with_passages: bool
) -> None:
    owner = [random.randrange(shards) for _ in corpus]  # type: ignore[attr-defined]
    parts = [[entry for entry, of in zip(corpus, owner, strict=True) if of == shard] for shard in range(shards)]
    found = [(n, hits_of(part, top_k, with_passages=with_passages, width=top_k), 0) for n, part in enumerate(parts)]

    candidates = merge(found, top_k)

    assert [(c.id, c.score) for c in candidates] == sorted(corpus, key=lambda entry: (-entry[1], entry[0]))[:top_k]
    assert [c.rank for c in candidates] == list(range(1, len(candidates) + 1))
    for candidate in candidates:
        assert parts[candidate.ref.shard][candidate.ref.row][0] == candidate.id
        assert (candidate.passage.id if candidate.passage else None) == (candidate.id if with_passages else None)


def test_each_query_of_a_batch_reads_its_own_row_and_is_cut_to_its_own_top_k() -> None:
    scores = np.array([[0.9, 0.8, 0.7], [0.3, 0.2, -np.inf]], np.float32)
    hits = Hits(scores, np.array([[0, 1, 2], [2, 1, -1]]), [["a", "b", "c"], ["c", "b"]])
    assert [c.id for c in merge([(0, hits, 0)], 2)] == ["a", "b"]
    assert [c.id for c in merge([(0, hits, 1)], 3)] == ["c", "b"]


def test_nothing_found_is_an_empty_ranking() -> None:
    assert merge([], 5) == []
    assert merge([(0, hits_of([], 5, width=5), 0)], 5) == []
