"""Train: what every shard of a kind that needs training starts from, once for the whole build."""

from shoal.index_root import layout
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind
from shoal.indexing.commits import Counts
from shoal.indexing.plan import Plan
from shoal.indexing.sample import sample_vectors


def train_index(plan: Plan, storage: Storage, passages: Counts, threads: int) -> None:
    """Train the index kind of a plan on a sample of its embedded units, unless that was done already.

    Args:
        plan: What is built.
        storage: The index root.
        passages: int64 (units,), passages of each unit.
        threads: CPU threads.
    """
    path = layout.trained_index(plan.hash)
    kind = index_kind(plan.index.index_kind)
    if not kind.TRAINED or storage.exists(path):
        return
    sample = sample_vectors(
        storage, plan.hash, passages, plan.shards, plan.encoder.dim, plan.index.train_passages, seed=1
    )
    trained = kind.train(sample, plan.index, threads)
    if trained is not None and not storage.exists(path):  # training takes long: another run may have been faster
        storage.write(path, trained)
