"""benchmarks.stored orders candidates as the shards would: over random tokens, against the formula."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stored
from benchmarks.adaptive import Scored
from benchmarks.stored import Collection, Layout
from shoal.encoders import TextVectors
from shoal.evaluation.dataset import Dataset
from shoal.late import codec
from shoal.records import FloatArray

HIDDEN, CANDIDATES = 130, 12


def unit(rows: int, seed: int) -> FloatArray:
    found = np.random.default_rng(seed).standard_normal((rows, HIDDEN)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def collection() -> Collection:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, 30)
    tokens = unit(int(lengths.sum()), 1).astype(np.float16)
    ids = [f"p{number}" for number in range(30)]
    queries = {name: TextVectors(unit(1, seed)[0], unit(3, seed)) for name, seed in (("q1", 2), ("q2", 3))}
    recorded = {
        mode: {
            name: Scored(ids[:CANDIDATES], np.zeros((CANDIDATES, 2)), scores := random.random(CANDIDATES), scores)
            for name in queries
        }
        for mode in stored.MODES
    }
    dataset = Dataset("random", {"q1": "a", "q2": "b"}, {"q1": {"p1": 1}, "q2": {"p3": 1}})
    rows = {id_: row for row, id_ in enumerate(ids)}
    return Collection(dataset, recorded, queries, rows, unit(30, 4), tokens, np.cumsum(lengths), lengths, tokens[:128])


def test_scores_are_those_of_late_interaction(collection: Collection) -> None:
    learned = codec.train(collection.tokens, 128, 8)
    values = codec.levels_of(learned.encode(collection.tokens), learned.projection, 8)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    query, ends = collection.queries["q1"], collection.ends
    ids = stored.candidates_of(collection, "q1")
    found = stored.score(collection, query, ids, learned.axes, values, ends)
    starts = ends - collection.all_lengths
    for row in range(CANDIDATES):
        tokens = collection.tokens[starts[row] : ends[row]].astype(np.float32)
        late = (query.tokens @ tokens.T).max(axis=1).mean()
        assert found[ids[row]] == pytest.approx(0.25 * collection.vectors[row] @ query.vector + 0.75 * late, abs=0.02)


def test_neighbours_are_averaged_within_their_passage(collection: Collection) -> None:
    tokens, ends = stored.pooled(collection.tokens, collection.ends, 2)
    assert np.diff(ends, prepend=0).tolist() == [-(-length // 2) for length in collection.all_lengths]
    first = collection.tokens[: min(2, collection.all_lengths[0])].astype(np.float32).sum(axis=0)
    np.testing.assert_allclose(tokens[0], first / np.linalg.norm(first), atol=1e-3)


def test_a_shortlist_is_what_the_reranker_orders(collection: Collection) -> None:
    whole = stored.on_the_fly([collection])
    by_tokens = stored.stored_scores(collection, Layout(128, 2))
    everything = stored.outcome([collection], Layout(128, 2), [stored.shortlisted(collection, by_tokens, CANDIDATES)])
    assert everything.ndcg == whole.ndcg
    scored = collection.recorded["dense"]["q1"]
    given = np.arange(len(scored.ids), dtype=np.float64)
    scores = stored.shortened(replace(scored, final=scored.rerank), given, 3)
    assert np.flatnonzero(scores > -10).tolist() == np.argsort(given)[-3:].tolist()
    assert np.flatnonzero(stored.shortened(scored, None, 3) > -10).tolist() == [0, 1, 2]


def test_all_layouts_are_compared_and_drawn(collection: Collection, tmp_path: Path) -> None:
    outcomes = {None: stored.on_the_fly([collection])}
    outcomes |= {
        one: stored.outcome([collection], one, [stored.stored_scores(collection, one)])
        for one in (Layout(128, 2), Layout(64, 8), Layout(64, 8, 2))
    }
    mean = collection.all_lengths.mean()
    assert [found.passage_bytes[0] for found in outcomes.values()] == pytest.approx(
        [2 * HIDDEN * mean, 32 * mean + 8, 64 * mean + 8, 64 * np.mean(-(-collection.all_lengths // 2)) + 8]
    )
    stored.show("dense", ["random"], {stored.name_of(one): found for one, found in outcomes.items()})
    stored.plot(outcomes, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
