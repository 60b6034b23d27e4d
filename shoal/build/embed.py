"""Embed: one unit of input becomes one file of passages and vectors grouped by shard, and a commit record."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from shoal import layout
from shoal.build.commits import RejectedRecord, UnitCommit, read_unit_commit
from shoal.build.unit import write_unit
from shoal.metadata import Observed
from shoal.plan import Plan, Unit, shard_of
from shoal.records import FloatArray, Passage
from shoal.shard import to_batch
from shoal.sources import Rejected, read_unit
from shoal.storage import Storage


class PassageEncoder(Protocol):
    """The part of an encoder that a build needs."""

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        ...


def embed_unit(plan: Plan, unit: Unit, encoder: PassageEncoder, storage: Storage) -> UnitCommit:
    """Embed one unit and commit it; a unit that is committed already is only looked up.

    The result depends on the plan and the encoder alone; it is not asked for vectors that the source brings.
    Raises InvalidArgument when the unit's file cannot be read or has changed since the plan was made.
    """
    files = layout.unit_commit(plan.hash, unit.number), layout.unit_data(plan.hash, unit.number)
    if all(storage.exists(path) for path in files):
        return read_unit_commit(storage, plan.hash, unit.number)
    reader = read_unit(plan, unit, storage)
    observed = Observed()
    records: list[int] = []
    passages: list[Passage] = []
    rejected: list[Rejected] = []
    for item in reader:
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            records.append(item[0])
            passages.append(item[1])

    if plan.source.vectors_field is None:
        vectors = encoder.encode_passages([passage.content for passage in passages])
        reason = "text: its vector is not finite; check the encoder and its dtype"
    else:
        vectors = _normalised(passages, plan.encoder.dim)
        reason = f"the vector field {plan.source.vectors_field!r} is zero or holds a number that is not finite"
    finite = np.isfinite(vectors).all(axis=1)
    for row in np.flatnonzero(~finite):
        rejected.append(Rejected(records[row], reason, passages[row].id))

    shards = np.fromiter((shard_of(passage.id, plan.shards) for passage in passages), np.int64, len(passages))
    kept = np.flatnonzero(finite)
    for row in kept:
        observed.see(passages[row].metadata)
    # Stable: within a shard the input order stays, and with it which of several equal ids is the first.
    order = kept[np.argsort(shards[kept], kind="stable")]
    rows = np.bincount(shards[kept], minlength=plan.shards)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        path = folder / "unit.arrow"
        batch = to_batch(passages).take(pa.array(order))
        write_unit(path, batch, np.asarray(records, np.int64)[order], vectors[order], rows)
        storage.put(path, layout.unit_data(plan.hash, unit.number))
    commit = UnitCommit(
        unit=unit.number,
        lines=reader.lines,
        rows=rows.tolist(),
        rejected=[
            RejectedRecord(record=bad.record, reason=bad.reason, id=bad.id)
            for bad in sorted(rejected, key=lambda bad: bad.record)
        ],
        fields=observed.kinds,
    )
    storage.write(layout.unit_commit(plan.hash, unit.number), commit.model_dump_json().encode())
    return commit


def _normalised(passages: Sequence[Passage], dim: int) -> FloatArray:
    """The vectors that passages brought along, float32 (n, dim), normalised; not finite where that cannot be done."""
    given = [passage.vector for passage in passages if passage.vector is not None]
    vectors = np.array(given, np.float64).reshape(len(passages), dim)  # squares of large numbers are beyond float32
    with np.errstate(divide="ignore", invalid="ignore"):
        unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
