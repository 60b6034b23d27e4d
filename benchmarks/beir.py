"""Reads a BEIR data set: corpus, queries and judgements."""

import csv
import gzip
import json
from pathlib import Path

import ir_measures


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Read a whole gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_qrels(path: Path) -> list[ir_measures.Qrel]:
    """Read BEIR judgements: query-id, corpus-id, score, with a header."""
    with path.open() as lines:
        return [
            ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"]))
            for row in csv.DictReader(lines, delimiter="\t")
        ]
