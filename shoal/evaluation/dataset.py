"""Judged queries in BEIR layout."""

import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from shoal.errors import InvalidArgument

Judgements = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Queries by id, in the order of their file, and by query the judged passages with their grades; each has some."""

    name: str
    queries: dict[str, str]
    judgements: Judgements

    def sample(self, count: int | None) -> "Dataset":
        """Keep so many queries, chosen at random but always the same; None keeps all."""
        if count is None or count >= len(self.queries):
            return self
        chosen = set(np.random.default_rng(0).choice(sorted(self.queries), count, replace=False).tolist())
        return Dataset(
            self.name,
            {query: text for query, text in self.queries.items() if query in chosen},
            {query: judged for query, judged in self.judgements.items() if query in chosen},
        )


def read_dataset(folder: str, split: str = "test") -> Dataset:
    """Read the queries of a folder that have a relevant passage. Raises InvalidArgument that names file and line."""
    root = Path(folder).expanduser()
    judgements = _read_judgements(root / "qrels" / f"{split}.tsv")
    queries: dict[str, str] = {}
    place = root / "queries.jsonl"
    with _opened(place) as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                query, text = str(record["_id"]), record["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidArgument(
                    f"{place}:{number}: not a query, {{'_id', 'text'}} ({error})", param="dataset"
                ) from None
            if query in judgements:
                queries[query] = text
    if missing := sorted(judgements.keys() - queries.keys()):
        raise InvalidArgument(
            f"{place} lacks {len(missing)} judged queries, such as {missing[0]!r}; the files do not belong together",
            param="dataset",
        )
    return Dataset(root.resolve().name, queries, judgements)


def _read_judgements(place: Path) -> Judgements:
    found: Judgements = {}
    with _opened(place) as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            if number == 1 and row[-1:] == ["score"]:
                continue
            try:
                query, passage, grade = row
                found.setdefault(query, {})[passage] = int(grade)
            except ValueError:
                raise InvalidArgument(
                    f"{place}:{number}: not a judgement, query-id, corpus-id and score between tabs", param="dataset"
                ) from None
    relevant = {query: judged for query, judged in found.items() if any(grade > 0 for grade in judged.values())}
    if not relevant:
        raise InvalidArgument(f"{place} judges no passage as relevant", param="dataset")
    return relevant


@contextmanager
def _opened(place: Path) -> Iterator[TextIO]:
    """Open a text file, or the gzipped one that lies in its place."""
    zipped = place.with_name(place.name + ".gz")
    try:
        if not place.exists() and zipped.exists():
            with gzip.open(zipped, "rt", encoding="utf-8", newline="") as lines:
                yield lines
        else:
            with place.open(encoding="utf-8", newline="") as lines:
                yield lines
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{place} (or .gz) cannot be read: {error}", param="dataset") from None
