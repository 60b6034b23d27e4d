"""The segments of a live shard, the shard of the version and the runs, as one: rows by their numbers among all of them.

Segments stand in the order of their first rows.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from shoal.records import RowArray
from shoal.shard.messages import MESSAGE_BYTES, Hits
from shoal.shard.retrieval import RetrieverHits
from shoal.shard.runs import Segment


def place_of(segments: Sequence[Segment], row: int) -> tuple[Segment, int]:
    """The segment of a row, of segments in the order of their first rows, and its number there."""
    segment = segments[bisect_right(segments, row, key=lambda one: one.start) - 1]
    return segment, row - segment.start


def ids_of(segments: Sequence[Segment], rows: RowArray) -> pa.StringArray:
    """Ids of rows, int64 (n,) ascending."""
    borders = np.searchsorted(rows, [segment.start for segment in segments[1:]])
    parts = np.split(rows, borders)
    return pa.concat_arrays(
        [segment.shard.ids_of(part - segment.start) for segment, part in zip(segments, parts, strict=True)]
    )


def hits_of(segments: Sequence[Segment], found: RetrieverHits, with_passages: bool) -> Hits:
    """What was found in segments, with ids, and with passages where they are wanted and fit into one message."""
    lines = [[place_of(segments, row) for row in line[line >= 0].tolist()] for line in found.rows]
    other_scores = found.other_scores or None
    if with_passages:
        size = sum(segment.shard.sizes([row])[0] for line in lines for segment, row in line)
        if size <= MESSAGE_BYTES:
            passages = [[segment.shard.passage(row) for segment, row in line] for line in lines]
            ids = [[passage.id for passage in line] for line in passages]
            return Hits(found.scores, found.rows, ids, passages, other_scores)
    ids = [[segment.shard.id(row) for segment, row in line] for line in lines]
    return Hits(found.scores, found.rows, ids, None, other_scores)
