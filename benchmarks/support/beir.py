"""Reads a BEIR data set: corpus, queries and judgements.

A folder with `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, as the BEIR project publishes it; the first two may
be gzipped (`.jsonl.gz`). What is missing ends the program with a message that says so.
"""

import csv
import gzip
import json
import sys
from pathlib import Path

import ir_measures

REMEDY = """name a BEIR data set: --dataset DIR, or SHOAL_DATA=FOLDER for FOLDER/beir/NAME. It is a folder with
corpus.jsonl, queries.jsonl and qrels/test.tsv, such as scifact, which https://github.com/beir-cellar/beir links to"""


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Read a whole JSONL file, `path` itself or its gzipped or plain twin."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    zipped = plain.with_name(f"{plain.name}.gz")
    if zipped.exists():
        with gzip.open(zipped, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    with _existing(plain).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_qrels(path: Path) -> list[ir_measures.Qrel]:
    """Read BEIR judgements: query-id, corpus-id, score, with a header."""
    with _existing(path).open(encoding="utf-8") as lines:
        return [
            ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"]))
            for row in csv.DictReader(lines, delimiter="\t")
        ]


def _existing(path: Path) -> Path:
    if not path.is_file():
        sys.exit(f"error: there is no {path}; {REMEDY}")
    return path
