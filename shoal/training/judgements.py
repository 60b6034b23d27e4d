"""Judgements that rerankers are trained on: read from a folder, checked, some of them held out.

Two layouts are understood:

* `*.jsonl` or `*.jsonl.gz`, one object a line: {"query": str, "positive": str or [str], "negatives": [str], ...}; other
  fields are passed over. The passages are the positives and negatives of all files.
* a BEIR folder: corpus.jsonl[.gz], queries.jsonl[.gz], qrels/train.tsv and, if there is one, qrels/dev.tsv. A score
  above 0 makes a positive, 0 a negative.
"""

import csv
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from shoal.errors import InvalidArgument, NotFound
from shoal.records import Passage

_ENDINGS = (".jsonl", ".jsonl.gz")
"""Endings of a file of judgements."""


@dataclass(slots=True)
class Judgement:
    """What is known of one query: rows of passages, without repetition, in order of appearance."""

    query: str
    positives: list[int] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Judgements:
    """Distinct passages, and the judged queries: those to learn from and those held out, each with a positive."""

    passages: list[str]
    train: list[Judgement]
    dev: list[Judgement]


def digest(folder: Path) -> str:
    """Return the SHA-256 of what `read` reads, in hex: names and bytes of the files. Raises NotFound."""
    total = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def read(folder: Path, dev_share: float, dev_queries: int, seed: int) -> Judgements:
    """Read a folder and hold out a share of its queries, at most `dev_queries`; the same seed holds out the same ones.

    Raises NotFound when there are no judgements, InvalidArgument that names file and line of a bad one.
    """
    passages: dict[str, int] = {}
    dev: list[Judgement] = []
    if _is_beir(folder):
        texts = {identity: passages.setdefault(text, len(passages)) for identity, text in _corpus(folder)}
        queries = _queries(folder)
        judged = _qrels(folder / "qrels" / "train.tsv", queries, texts)
        if (folder / "qrels" / "dev.tsv").exists():
            dev = _usable(_qrels(folder / "qrels" / "dev.tsv", queries, texts))
    else:
        judged = _pairs(_files(folder), passages)
    train = _usable(judged)
    if not train:
        raise InvalidArgument(f"{folder} names no passage that answers a query: add positives", param="data")
    chance = np.random.default_rng([seed, 1])
    if dev:
        dev = [dev[row] for row in chance.permutation(len(dev))[:dev_queries]]
    else:
        held_out = min(int(len(train) * dev_share), dev_queries)
        order = chance.permutation(len(train)).tolist()
        dev = [train[row] for row in order[:held_out]]
        train = [train[row] for row in sorted(order[held_out:])]
    return Judgements(list(passages), train, dev)


def _is_beir(folder: Path) -> bool:
    return (folder / "qrels" / "train.tsv").exists()


def _files(folder: Path) -> list[Path]:
    if _is_beir(folder):
        qrels = [path for split in ("train", "dev") if (path := folder / "qrels" / f"{split}.tsv").exists()]
        return [_find(folder, "corpus"), _find(folder, "queries"), *qrels]
    files = sorted(path for path in folder.glob("*") if path.name.endswith(_ENDINGS))
    if not files or (folder / "qrels").exists():
        raise NotFound(
            f"{folder} holds no judgements: put *.jsonl files of query and positive there, or a BEIR corpus, queries "
            "and qrels/train.tsv"
        )
    return files


def _find(folder: Path, name: str) -> Path:
    for ending in _ENDINGS:
        if (path := folder / f"{name}{ending}").exists():
            return path
    raise NotFound(f"{folder} has qrels/train.tsv, but neither {name}.jsonl nor {name}.jsonl.gz: add it")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a file with its place."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise InvalidArgument(f"{place}: not a JSON object ({error})", param="data") from None
                if not isinstance(record, dict):
                    raise InvalidArgument(f"{place}: not a JSON object", param="data")
                yield place, record
    except (OSError, EOFError) as error:
        raise InvalidArgument(f"{path} cannot be read ({error})", param="data") from error


def _text(record: dict[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgument(f"{place}: the field {field!r} must be a text that is not empty", param="data")
    return value


def _texts(record: dict[str, Any], field: str, place: str) -> list[str]:
    value = record.get(field)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [_text({field: text}, field, place) for text in values]


def _queries(folder: Path) -> dict[str, str]:
    lines = _lines(_find(folder, "queries"))
    return {_text(record, "_id", place): _text(record, "text", place) for place, record in lines}


def _corpus(folder: Path) -> Iterator[tuple[str, str]]:
    for place, record in _lines(_find(folder, "corpus")):
        identity = _text(record, "_id", place)
        passage = Passage(identity, record.get("text") or "", record.get("title") or None)
        if passage.content.strip():  # some published corpora have empty passages
            yield identity, passage.content


def _pairs(files: list[Path], passages: dict[str, int]) -> list[Judgement]:
    judged: dict[str, Judgement] = {}
    for path in files:
        for place, record in _lines(path):
            query = _text(record, "query", place)
            _text({"positive": " ".join(_texts(record, "positive", place))}, "positive", place)
            judgement = judged.setdefault(query, Judgement(query))
            for name, rows in (("positive", judgement.positives), ("negatives", judgement.negatives)):
                rows.extend(passages.setdefault(text, len(passages)) for text in _texts(record, name, place))
    return list(judged.values())


def _qrels(path: Path, queries: dict[str, str], passages: dict[str, int]) -> list[Judgement]:
    judged: dict[str, Judgement] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t")
        if next(reader, None) != ["query-id", "corpus-id", "score"]:
            raise InvalidArgument(f"{path}:1: the header must be query-id, corpus-id, score, by tabs", param="data")
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if len(row) != 3 or not row[2].lstrip("-").isdigit():
                raise InvalidArgument(f"{place}: not a query id, a passage id and a whole number", param="data")
            if row[0] not in queries or row[1] not in passages:
                kind, identity = ("query", row[0]) if row[0] not in queries else ("passage", row[1])
                raise InvalidArgument(f"{place}: there is no {kind} {identity!r}; remove the line", param="data")
            judgement = judged.setdefault(row[0], Judgement(queries[row[0]]))
            (judgement.positives if int(row[2]) > 0 else judgement.negatives).append(passages[row[1]])
    return list(judged.values())


def _usable(judged: list[Judgement]) -> list[Judgement]:
    """Leave out queries without a positive, repetitions, and negatives that are positives as well."""
    usable = []
    for judgement in judged:
        positives = list(dict.fromkeys(judgement.positives))
        negatives = [row for row in dict.fromkeys(judgement.negatives) if row not in positives]
        if positives:
            usable.append(Judgement(judgement.query, positives, negatives))
    return usable
