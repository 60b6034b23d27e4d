"""Does sharding change an answer? `python -m benchmarks.sharding --dataset BEIR_DIR`.

Builds the data set with 1, 4 and 7 shards through the real job and searches the shards, then compares with one exact
search by numpy over vectors that sentence-transformers computed itself; nDCG@10 comes from ir-measures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks.support.beir import read_jsonl, read_qrels
from benchmarks.support.report import Figure, report
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.inference.models import resolve
from shoal.records import Candidate, FloatArray
from shoal.search import merge
from shoal.settings import EMBEDDED_ENCODER
from shoal.shard.messages import dense_queries
from shoal.shard.reader import Shard

TOP_K = 100
TOLERANCE = 1e-5


def main() -> None:
    """Run the comparison and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SHOAL_DATA", "../shared/data"))
    parser.add_argument("--dataset", type=Path, default=data / "beir" / "scifact")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 7])
    parser.add_argument(
        "--expected-ndcg", type=float, default=0.645, help="published nDCG@10 of the encoder on this data set"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    qrels = list(read_qrels(options.dataset / "qrels" / "test.tsv"))
    judged = {judgement.query_id for judgement in qrels}
    queries = {
        row["_id"]: row["text"] for row in read_jsonl(options.dataset / "queries.jsonl.gz") if row["_id"] in judged
    }
    corpus = read_jsonl(options.dataset / "corpus.jsonl.gz")

    model = SentenceTransformer(str(resolve(EMBEDDED_ENCODER).fetch()), device="cpu")
    passage_vectors = model.encode(
        [f"{row.get('title', '')} {row['text']}".strip() for row in corpus], normalize_embeddings=True
    )
    query_vectors = model.encode(list(queries.values()), normalize_embeddings=True)
    exact = query_vectors @ passage_vectors.T
    rows = {row["_id"]: number for number, row in enumerate(corpus)}

    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for shards in options.shards:
            found = search(build(options.dataset, f"{folder}/{shards}", shards), query_vectors)
            worst, misplaced = compare(found, exact, rows)
            run = [
                ir_measures.ScoredDoc(query, candidate.id, candidate.score)
                for query, candidates in zip(queries, found, strict=True)
                for candidate in candidates
            ]
            ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
            expected = options.expected_ndcg
            name = f"{shards} shards"
            figures += [
                Figure(f"{name}: nDCG@10", ndcg, "", f"{expected} ± 0.003", abs(ndcg - expected) <= 0.003),
                Figure(f"{name}: largest score difference", worst, "", f"<= {TOLERANCE}", worst <= TOLERANCE),
                Figure(f"{name}: ids out of place in the top {TOP_K}", misplaced, "ids", "0", misplaced == 0),
            ]
    report(
        f"Sharded search against exact search, {options.dataset.name}, {len(queries)} queries", figures, options.json
    )


def build(dataset: Path, index: str, shards: int) -> Storage:
    """Build the data set into an index root with the job that users run."""
    command = [
        sys.executable,
        "-m",
        "jobs.build_index",
        "--source",
        str(dataset),
        "--index",
        index,
        "--shards",
        str(shards),
        "--dtype",  # as the reference computes
        "float32",
    ]
    subprocess.run(command, check=True)
    return Storage(index)


def search(root: Storage, queries: FloatArray) -> list[list[Candidate]]:
    """Search every shard of the current version and merge, as the server does."""
    current = versions.read_current(root)
    assert current is not None
    manifest = versions.read_manifest(root, current.version)
    hits = {}
    for entry in manifest.shards:
        shard = Shard.open(root, manifest, entry.shard, cache=None, threads=2)
        hits[entry.shard] = shard.search(dense_queries(queries), TOP_K, with_passages=False).by_retriever["dense"]
    return [merge.merge([(number, one, query) for number, one in hits.items()], TOP_K) for query in range(len(queries))]


def compare(found: list[list[Candidate]], exact: FloatArray, rows: dict[str, int]) -> tuple[float, int]:
    """Return the largest score difference and the number of ids that are not where exact search has them.

    Ids whose exact scores differ by less than the tolerance may stand in either order.
    """
    worst, misplaced = 0.0, 0
    for candidates, scores in zip(found, exact, strict=True):
        best = np.sort(scores)[::-1][:TOP_K]
        own = np.array([candidate.score for candidate in candidates])
        reference = scores[[rows[candidate.id] for candidate in candidates]]
        worst = max(worst, float(np.abs(own - best).max()), float(np.abs(own - reference).max()))
        misplaced += int((np.abs(reference - best) > TOLERANCE).sum())
    return worst, misplaced


if __name__ == "__main__":
    main()
