"""How often terms occur: counted shard by shard, then over the corpus, in files that are sorted by term.

A file of terms is Arrow IPC with the columns `term` (large_string, ascending by UTF-8 bytes) and `passages` (int64, in
how many it occurs); its schema's metadata holds the number of passages and the sum of their lengths in terms.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shoal.index_root.arrow_files import checked
from shoal.index_root.storage import Storage
from shoal.lexical.analyzer import Analyzer

TERM = pa.field("term", pa.large_string(), nullable=False)
"""The column of a term."""
TERM_SCHEMA = pa.schema([TERM, pa.field("passages", pa.int64(), nullable=False)])
"""Columns of a file of document frequencies."""
_BATCH = 2**20
"""Terms that are held in memory at once where a file streams by."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Passages, and the sum of their lengths in terms."""

    passages: int
    length: int

    @property
    def mean_length(self) -> float:
        """Terms of a passage, on average; 0 without passages."""
        return self.length / self.passages if self.passages else 0.0


def contents(batch: pa.RecordBatch) -> list[str]:
    """What is searched of a batch of passages: `Passage.content` of each."""
    columns = zip(batch.column("title").to_pylist(), batch.column("text").to_pylist(), strict=True)
    return [f"{title} {text}" if title else text for title, text in columns]


def count_terms(batches: Iterable[pa.RecordBatch], analyzer: Analyzer, path: Path) -> None:
    """Write the terms of batches with the columns `text` and `title`. Memory: the distinct terms, one batch."""
    counter: Counter[str] = Counter()
    passages = length = 0
    for batch in batches:
        for text in contents(batch):
            terms = analyzer.terms(text)
            counter.update(set(terms))
            length += len(terms)
        passages += batch.num_rows
    terms = sorted(counter)
    table = pa.table([pa.array(terms, TERM.type), pa.array([counter[term] for term in terms], pa.int64())], TERM_SCHEMA)
    _write(path, table, Totals(passages, length))


def merge_terms(storage: Storage, paths: Iterable[str], target: Path) -> None:
    """Write the sums over files of terms. Memory: twice the distinct terms of all."""
    merged, waiting, rows = TERM_SCHEMA.empty_table(), [], 0
    passages = length = 0
    for path in paths:
        totals, table = _read(storage, path)
        passages, length = passages + totals.passages, length + totals.length
        waiting.append(table)
        rows += table.num_rows
        if rows >= max(_BATCH, merged.num_rows):
            merged, waiting, rows = _summed([merged, *waiting]), [], 0
    merged = _summed([merged, *waiting])
    _write(target, merged.take(pc.sort_indices(merged.column("term"))), Totals(passages, length))


def read_terms(storage: Storage, path: str) -> tuple[Totals, pa.LargeStringArray, NDArray[np.int64]]:
    """Return totals, terms and, int64 (terms,), in how many passages each occurs. Raises NotFound."""
    totals, table = _read(storage, path)
    table = table.combine_chunks()
    return totals, _array(table.column("term")), table.column("passages").to_numpy()


def read_totals(storage: Storage, path: str) -> Totals:
    """Return the totals of a file of terms. Raises NotFound."""
    with storage.open_input(path) as source:
        return _totals(pa.ipc.open_file(source).schema)


def look_up(storage: Storage, path: str, terms: pa.LargeStringArray) -> tuple[Totals, NDArray[np.int64]]:
    """Return the totals of a file of terms and, int64 (terms,), its numbers for some of them; 0 for those it lacks."""
    numbers = np.zeros(len(terms), np.int64)
    with storage.open_input(path) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = checked(reader.get_batch(number))
            places = pc.index_in(batch.column("term"), value_set=terms)
            known = pc.is_valid(places).to_numpy(zero_copy_only=False)
            numbers[places.drop_null().to_numpy()] = batch.column("passages").to_numpy()[known]
        return _totals(reader.schema), numbers


def _summed(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("term", use_threads=False).aggregate([("passages", "sum")])
    return pa.Table.from_arrays([summed.column("term"), summed.column("passages_sum")], schema=TERM_SCHEMA)


def _write(path: Path, table: pa.Table, totals: Totals) -> None:
    schema = TERM_SCHEMA.with_metadata({"passages": str(totals.passages), "length": str(totals.length)})
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(table.combine_chunks().cast(schema), max_chunksize=_BATCH)


def _read(storage: Storage, path: str) -> tuple[Totals, pa.Table]:
    with storage.open_input(path) as source:
        table = pa.ipc.open_file(source).read_all()
    return _totals(table.schema), table.replace_schema_metadata(None)


def _totals(schema: pa.Schema) -> Totals:
    return Totals(int(schema.metadata[b"passages"]), int(schema.metadata[b"length"]))


def _array(column: pa.ChunkedArray) -> pa.LargeStringArray:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], TERM.type)])
