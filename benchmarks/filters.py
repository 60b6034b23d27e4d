"""Filtered search against exact filtered search, and where scanning wins: `python -m benchmarks.filters`.

Clustered vectors with two fields: `even`, which knows nothing of the vectors, and `topic`, the cluster of a vector, so
that most queries lie where hardly any row is selected. One query a time, on one thread, through the columns, the cache
and the choice that a retriever uses.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from benchmarks.support.clustered import BLOCK, TOP_K, clustered, median_ms, one_by_one, recall
from benchmarks.support.report import Figure, report
from shoal.capacity.synthetic import DIM
from shoal.filters import Filter, parse
from shoal.indexes import ShardIndex, index_kind
from shoal.metadata import FieldTypes
from shoal.records import FloatArray
from shoal.settings import IndexSettings
from shoal.shard.columns import Columns, ColumnWriter
from shoal.shard.selection import Selections, search

GOAL = 0.95
SELECTIVITIES = (0.5, 0.1, 0.01, 0.0001)
TYPES: FieldTypes = {"even": "number", "topic": "number"}


def main() -> None:
    """Run the comparison and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument(
        "--kinds", nargs="+", default=["flat", "IVF1024,SQ8:nprobe=16", "IVF1024,Flat:nprobe=16", "HNSW32:efSearch=64"]
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    faiss.omp_set_num_threads(1)
    vectors, queries, topics = clustered(options.passages, options.queries)
    fields = {"even": np.random.default_rng(2).random(options.passages), "topic": topics}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        columns = write_columns(Path(folder) / "metadata.arrow", fields)
        figures += evaluation(columns)
        for kind in options.kinds:
            index = build(Path(folder) / "vectors.faiss", *kind.partition(":")[::2], vectors)
            figures += measure(kind.partition(":")[0], index, columns, fields, vectors, queries)
    title = f"Filtered search, {options.passages:,} clustered vectors of {DIM}, {options.queries} queries"
    report(title, figures, options.json)


def write_columns(path: Path, fields: dict[str, np.ndarray]) -> Columns:
    """Write the fields as a build does, and open them."""
    rows = [f'{{"even":{even!r},"topic":{topic!r}}}' for even, topic in zip(*map(list, _plain(fields)), strict=True)]
    with ColumnWriter(path, TYPES) as writer:
        for start in range(0, len(rows), BLOCK):
            writer.write(pa.array(rows[start : start + BLOCK], pa.large_string()))
    return Columns(path, TYPES)


def _plain(fields: dict[str, np.ndarray]) -> tuple[list[float], list[float]]:
    return fields["even"].tolist(), fields["topic"].tolist()


def build(path: Path, kind: str, parameters: str, vectors: FloatArray) -> ShardIndex:
    """Build an index of a kind and open it, mapped, for searches on one thread."""
    settings, module = IndexSettings(index_kind=kind, index_search=parameters), index_kind(kind)
    trained = module.train(vectors[:60_000], settings, 2)
    module.build((vectors[at : at + BLOCK] for at in range(0, len(vectors), BLOCK)), DIM, path, trained, 2)
    return module.open(path, settings, 1)


def evaluation(columns: Columns) -> list[Figure]:
    """How long it takes to evaluate a filter that is not remembered."""
    trees = {
        "one comparison": filter_of({"even": {"$lt": 0.1}}),
        "four conditions": filter_of(
            {"$or": [{"even": {"$lt": 0.1, "$gt": 0.05}}, {"topic": {"$ne": 0.5}, "even": {"$exists": True}}]}
        ),
    }
    return [
        Figure(f"evaluate {name}", median_ms(lambda _, tree=tree: columns.mask(tree), 9), "ms")
        for name, tree in trees.items()
    ]


def measure(
    name: str,
    index: ShardIndex,
    columns: Columns,
    fields: dict[str, np.ndarray],
    vectors: FloatArray,
    queries: FloatArray,
) -> list[Figure]:
    """Compare with exact search at every selectivity, and both ways of searching with one another."""
    index.vectors(np.array([0]))  # builds what reading vectors out of lists needs, once
    scores = queries @ vectors.T
    selections = Selections(columns, index, 2**30)
    plain = [index.search(queries[number : number + 1], TOP_K) for number in range(len(queries))]
    figures = [
        Figure(f"{name}: recall@{TOP_K} unfiltered", recall(plain, scores), ""),
        Figure(f"{name}: unfiltered", one_by_one(queries, lambda query: index.search(query, TOP_K)), "ms"),
    ]
    for field, values in fields.items():
        for share in SELECTIVITIES:
            mask = values < share
            if not mask.any():
                continue
            tree = filter_of({field: {"$lt": share}})
            selection = selections.get(tree)
            found = [search(index, queries[number : number + 1], TOP_K, selection) for number in range(len(queries))]
            value = recall(found, np.where(mask, scores, np.float32(-np.inf)))
            place = f"{name}: {field} {share:g}"
            figures += [
                Figure(f"{place}: recall@{TOP_K}", value, "", f">= {GOAL}", value >= GOAL),
                Figure(
                    f"{place}: {'scan' if selection.bits is None else 'selector'} (chosen)",
                    one_by_one(queries, lambda query, tree=tree: search(index, query, TOP_K, selections.get(tree))),
                    "ms",
                ),
                other_way(place, index, queries, mask, scanned=selection.bits is None),
            ]
    return figures


def other_way(place: str, index: ShardIndex, queries: FloatArray, mask: np.ndarray, *, scanned: bool) -> Figure:
    """What the way that was not chosen takes, over a few queries: it may take very long."""
    if scanned:
        selector, share = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")), float(mask.mean())
        ms = one_by_one(queries[:3], lambda query: index.search(query, TOP_K, selector, share))
        return Figure(f"{place}: selector", ms, "ms")
    rows = np.flatnonzero(mask)
    return Figure(f"{place}: scan", one_by_one(queries[:3], lambda query: index.scan(query, TOP_K, rows)), "ms")


def filter_of(document: dict[str, Any]) -> Filter:
    tree = parse(document, TYPES, 100, 16)
    assert tree is not None
    return tree


if __name__ == "__main__":
    main()
