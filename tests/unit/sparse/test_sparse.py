"""Learned terms in shards: what is written is what is searched, for any number of shards, with filters and after it."""

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout
from shoal.records import FloatArray, TermWeights
from shoal.shard.messages import ShardQuery
from shoal.shard.selection import Selection
from shoal.shard.sparse import SparseRetriever
from shoal.sparse import writer as sparse_writer
from shoal.sparse.column import COLUMN, column_of
from shoal.sparse.index import SparseIndex
from shoal.sparse.writer import FILES, SparseWriter

DIMENSIONS = 7
weights = st.floats(0, 4, width=16)
texts = st.dictionaries(st.integers(0, DIMENSIONS - 1), weights, max_size=DIMENSIONS)


def term_weights(text: dict[int, float]) -> TermWeights:
    terms = sorted(text)
    return TermWeights(np.array(terms, np.int32), np.array([text[term] for term in terms], np.float32))


def write(folder: Path, passages: Sequence[TermWeights], cuts: Sequence[int] = ()) -> SparseIndex:
    """Write passages that come in blocks, and open what was written."""
    column = column_of(passages)
    borders = [0, *sorted(min(cut, len(passages)) for cut in cuts), len(passages)]
    blocks = [
        (pa.RecordBatch.from_arrays([column[start:end]], schema=pa.schema([COLUMN])), number)
        for number, (start, end) in enumerate(pairwise(borders))
    ]
    written = list(SparseWriter(folder, DIMENSIONS).tee(iter(blocks)))
    assert [number for _, number in written] == list(range(len(blocks)))
    assert sorted(path.name for path in (folder / layout.SPARSE).iterdir()) == sorted(Path(name).name for name in FILES)
    return open_index(folder, len(passages))


def open_index(folder: Path, count: int) -> SparseIndex:
    return SparseIndex({name: folder / name for name in FILES}, count, DIMENSIONS)


def matrix(rows: Sequence[TermWeights]) -> FloatArray:
    dense = np.zeros((len(rows), DIMENSIONS), np.float32)
    for row, text in enumerate(rows):
        dense[row, text.terms] = text.weights
    return dense


@given(st.lists(texts, max_size=12), texts, st.lists(st.integers(0, 12), max_size=4), st.integers(1, 20))
def test_scores_are_dot_products(
    corpus: list[dict[int, float]], query: dict[int, float], cuts: list[int], portion: int
) -> None:
    passages, asked = [term_weights(text) for text in corpus], term_weights(query)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_writer, "_ENTRIES", portion)
        index = write(Path(folder), passages, cuts)
    expected = matrix(passages) @ matrix([asked])[0]
    np.testing.assert_allclose(index.scores(asked), expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.tuples(texts, st.integers(0, 2), st.booleans()), max_size=15), texts, st.integers(1, 6))
def test_shards_together_find_what_one_finds(
    corpus: list[tuple[dict[int, float], int, bool]], query: dict[int, float], top_k: int
) -> None:
    asked = ShardQuery("", None, "sparse", terms=term_weights(query))
    passages, allowed = [term_weights(text) for text, _, _ in corpus], [marked for _, _, marked in corpus]

    def search(rows: Sequence[int], folder: str) -> list[tuple[float, str]]:
        ids = pa.array([f"p{row:02d}" for row in rows], pa.string())
        retriever = SparseRetriever(
            write(Path(folder), [passages[row] for row in rows]), len(rows), lambda own: ids.take(pa.array(own))
        )
        chosen = np.flatnonzero([allowed[row] for row in rows]).astype(np.int64)
        everything = np.arange(len(rows))
        hits = retriever.search([asked], top_k, [Selection(len(chosen), chosen, None)], [everything])
        found = hits.rows[0][hits.rows[0] >= 0]
        np.testing.assert_array_equal(hits.known_scores[0][found], hits.scores[0][: len(found)])
        np.testing.assert_array_equal(retriever.score(asked, everything, hits.scores[0]), hits.known_scores[0])
        return list(zip((-hits.scores[0][: len(found)]).tolist(), ids.take(pa.array(found)).to_pylist(), strict=True))

    with tempfile.TemporaryDirectory() as folder:
        whole = search(range(len(corpus)), f"{folder}/whole")
        parts = [
            search([row for row, (_, own, _) in enumerate(corpus) if own == shard], f"{folder}/{shard}")
            for shard in range(3)
        ]
    assert sorted(hit for part in parts for hit in part)[:top_k] == whole
    scores = matrix(passages) @ matrix([term_weights(query)])[0] if corpus else np.zeros(0)
    positive = [row for row, marked in enumerate(allowed) if marked and scores[row] > 0]
    assert len(whole) == min(top_k, len(positive))


def test_weights_are_rounded_to_float16_and_none_is_lost_to_its_size() -> None:
    (kept,) = column_of([TermWeights(np.arange(3, dtype=np.int32), np.array([1e-9, 1e9, 1.00001], np.float32))])
    assert len(kept.as_py()) == 2 * 6  # the first one rounds to 0
    assert np.frombuffer(kept.as_py(), "<i4,<f2")["f1"].tolist() == [65504, 1]


@pytest.mark.parametrize("damage", ["dtype", "dimensions", "rows", "offsets"])
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, damage: str) -> None:
    write(tmp_path, [term_weights({0: 1.0, 3: 2.0}), term_weights({3: 1.0})])
    rows, offsets = tmp_path / layout.SPARSE_ROWS, tmp_path / layout.SPARSE_OFFSETS
    changes: dict[str, Any] = {
        "dtype": lambda: np.save(rows, np.load(rows).astype(np.int64)),
        "dimensions": lambda: np.save(offsets, np.load(offsets)[:-1]),
        "rows": lambda: np.save(rows, np.load(rows) + 1),
        "offsets": lambda: np.save(offsets, np.load(offsets) + 1),
    }
    changes[damage]()
    with pytest.raises(CorruptIndex, match="restore it or activate another version"):
        open_index(tmp_path, 2)


def test_a_shard_without_the_files_is_refused() -> None:
    with pytest.raises(CorruptIndex, match="cannot be read"):
        SparseIndex({}, 2, DIMENSIONS)


def test_a_query_without_terms_is_refused(tmp_path: Path) -> None:
    retriever = SparseRetriever(write(tmp_path, []), 0, lambda rows: pa.array([], pa.string()))
    with pytest.raises(InvalidArgument, match="brings no terms"):
        retriever.search([ShardQuery("red", None, "sparse")], 1, [None], [np.zeros(0, np.int64)])
