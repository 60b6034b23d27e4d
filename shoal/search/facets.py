"""Facets: how many of the passages that a filter lets through have which value of a field, counted in every shard."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nsmallest

import numpy as np

from shoal.errors import InvalidArgument
from shoal.filters import Filter, Value, field_type
from shoal.metadata import FieldType, FieldTypes
from shoal.records import Facet, FacetCount
from shoal.search.fanout import FanOut
from shoal.search.trace import SearchTrace, describe
from shoal.shard.facets import CountValues, ValueCounts


def check_facets(facets: Sequence[Facet], types: FieldTypes) -> None:
    """Check the fields of facets. Raises InvalidArgument naming one that the version has not, or that repeats."""
    names: set[str] = set()
    for number, facet in enumerate(facets):
        field_type(types, facet.field, f"facets[{number}]", "count")
        if facet.field in names:
            raise InvalidArgument(f"facets[{number}]: {facet.field} is there twice", param=f"facets[{number}]")
        names.add(facet.field)


class FacetCounting:
    """Counts the facets of the queries of one call, beside their searches; those that ask the same share the counts.

    Args:
        max_values: Values of one field that a shard counts at most.
    """

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._tasks: dict[_Key, asyncio.Task[_Counted]] = {}

    def start(self, fan_out: FanOut, facets: Sequence[Facet], tree: Filter | None, deadline: float) -> None:
        """Begin to count, unless the same is being counted, until an absolute deadline."""
        key = _key(fan_out, facets, tree)
        if facets and key not in self._tasks:
            fields = tuple(facet.field for facet in facets)
            question = CountValues(fields, tree, self._max_values)
            self._tasks[key] = task = asyncio.ensure_future(fan_out.ask_all(question, deadline))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # if the search failed before

    async def counts(
        self, fan_out: FanOut, facets: Sequence[Facet], tree: Filter | None, trace: SearchTrace
    ) -> dict[str, list[FacetCount]] | None:
        """Return the counts by field, the most frequent values first, equal ones by value; None if there are no facets.

        A field that has too many values is left out, with a warning; shards that have not answered are missing.
        """
        if not facets:
            return None
        answers, missing = await self._tasks[_key(fan_out, facets, tree)]
        trace.missing |= missing
        if missing:
            trace.degrade("facets", f"the facets lack what is in other shards ({describe(missing)})")
        counts: dict[str, list[FacetCount]] = {}
        for number, facet in enumerate(facets):
            kind = field_type(fan_out.version.fields, facet.field, f"facets[{number}]", "count")
            merged = self._merge([answer[number] for answer in answers.values()])
            if merged is None:
                trace.warnings.append(
                    f"{facet.field} has more than {self._max_values:,} values, too many to count; filter by it, or "
                    "raise --max-facet-values"
                )
                continue
            counts[facet.field] = most_frequent(merged, facet.limit, kind)
        return counts

    def cancel(self) -> None:
        """Give up what is still being counted."""
        for task in self._tasks.values():
            task.cancel()

    def _merge(self, parts: Sequence[ValueCounts | None]) -> ValueCounts | None:
        merged: Counter[Value] = Counter()
        for part in parts:
            if part is None:
                return None
            merged.update(part)
        return merged if len(merged) <= self._max_values else None


def most_frequent(counts: ValueCounts, limit: int, kind: FieldType) -> list[FacetCount]:
    """Return the `limit` most frequent values, equally frequent ones by value."""
    chosen = nsmallest(limit, counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [FacetCount(shown_value(value, kind), count) for value, count in chosen]


def shown_value(value: Value, kind: FieldType) -> Value:
    """Return a value of a column as a filter takes it: a timestamp in ISO 8601, UTC."""
    if kind != "timestamp":
        return value
    text = str(np.datetime_as_string(np.datetime64(int(value), "us")))
    return f"{text.removesuffix('.000000')}Z"


_Counted = tuple[Mapping[int, list[ValueCounts | None]], Mapping[int, str]]
"""Counts by field, and why shards are missing, both by shard number."""
_Key = tuple[FanOut, tuple[str, ...], Filter | None]
"""What is counted: where, of which fields, of which rows."""


def _key(fan_out: FanOut, facets: Sequence[Facet], tree: Filter | None) -> _Key:
    return fan_out, tuple(facet.field for facet in facets), tree
