"""A file with the measures of every query in every row of an evaluation."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Dataset
from shoal.evaluation.measures import Row
from shoal.evaluation.runs import Run

TABLE = ".tsv"
"""Suffix of a file that is a table; others hold JSON lines."""


def query_rows(dataset: Dataset, runs: Sequence[Run], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Give one mapping for each query and row: query by query, its rows in their order.

    first_relevant: rank of the first relevant passage; None where none is among those that were looked at. ms: None for
    a run that was read from a file.
    """
    for query, text in dataset.queries.items():
        relevant = {passage for passage, grade in dataset.judgements[query].items() if grade > 0}
        for run, row in zip(runs, rows, strict=True):
            ranking = run.rankings.get(query, ())
            places = (rank for rank, passage in enumerate(ranking, 1) if passage in relevant)
            yield {
                "query": query,
                "text": text,
                "row": row.name,
                **{name: values[query] for name, values in row.all_by_query.items()},
                "relevant": len(relevant),
                "first_relevant": next(places, None),
                "ms": run.latency_ms.get(query),
            }


def write_queries(dataset: Dataset, runs: Sequence[Run], rows: Sequence[Row], path: str) -> None:
    """Write a file of `query_rows`; see TABLE. Raises InvalidArgument if it cannot be written."""
    place = Path(path).expanduser()
    try:
        with place.open("w", encoding="utf-8", newline="") as file:
            if place.suffix == TABLE:
                _write_table(csv.writer(file, delimiter="\t"), query_rows(dataset, runs, rows))
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in query_rows(dataset, runs, rows))
    except OSError as error:
        raise InvalidArgument(f"{place} cannot be written: {error}", param="per_query") from None


def _write_table(table: Any, rows: Iterator[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        if not number:
            table.writerow(row)
        table.writerow(row.values())
