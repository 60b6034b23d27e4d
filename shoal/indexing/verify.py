"""Verify: what was stored is what was counted, before anything is published."""

import io

import numpy as np
import pyarrow as pa

from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.indexing.commits import ShardCommit, Tally
from shoal.indexing.plan import Plan
from shoal.indexing.shard_rows import duplicate_rows, id_digests


def verify_shard(plan: Plan, commit: ShardCommit, storage: Storage) -> list[str]:
    """Read a stored shard again and return its problems; an empty list means it is whole.

    Every file has the checksum that was committed, every passage is in the shard, and no id is there twice.
    """
    folder = layout.version_dir(plan.version)
    problems = [
        problem
        for file in commit.entry.files
        if (problem := versions.file_problem(storage, f"{folder}/{file.path}", file))
    ]
    if problems:
        return problems
    path = f"{layout.shard_dir(plan.version, commit.entry.shard)}/{layout.PASSAGES}"
    digests = bytearray()
    with storage.open_input(path) as source, storage.errors(path):
        passages = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
        for number in range(passages.num_record_batches):
            digests += id_digests(passages.get_batch(number).column(0).to_pylist())
    duplicates, _ = duplicate_rows(digests)
    count = len(digests) // 16
    if count != commit.entry.count:
        problems.append(f"{storage.place(path)} holds {count} passages, {commit.entry.count} were written")
    if len(duplicates):
        problems.append(f"{storage.place(path)} holds {len(duplicates)} ids twice")
    path = f"{layout.shard_dir(plan.version, commit.entry.shard)}/{layout.METADATA}"
    if any(file.path.endswith(layout.METADATA) for file in commit.entry.files):
        with storage.open_input(path) as source:
            columns = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            rows = sum(columns.get_batch(number).num_rows for number in range(columns.num_record_batches))
        if rows != commit.entry.count:
            problems.append(f"{storage.place(path)} holds {rows} rows, {commit.entry.count} were written")
    if plan.stores_tokens:
        path = f"{layout.shard_dir(plan.version, commit.entry.shard)}/{layout.LATE_OFFSETS}"
        rows = len(np.load(io.BytesIO(storage.read(path)), allow_pickle=False)) - 1
        if rows != commit.entry.count:
            problems.append(f"{storage.place(path)} holds {rows} rows, {commit.entry.count} were written")
    return problems


def count_problems(plan: Plan, tally: Tally, storage: Storage) -> list[str]:
    """Say which shards did not keep all that was embedded for them, but for duplicates, and undo their commits."""
    if not tally.done.all():
        return [f"{(~tally.done).sum()} units are not embedded"]
    lost = tally.shard_rows - tally.shard_passages - tally.shard_duplicates
    problems = []
    for shard in lost.nonzero()[0].tolist():
        storage.delete(layout.shard_commit(plan.hash, shard))
        problems.append(f"shard {shard} lost {lost[shard]} passages between embedding and indexing")
    return problems
