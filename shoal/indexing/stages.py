"""The later stages of a build, one after the other in this process: what `jobs.build` runs as tasks of Ray."""

from shoal.errors import CorruptIndex
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.indexing.commits import ShardCommit, Tally, read_shard_commit
from shoal.indexing.lexical import describe_lexical, merge_shards
from shoal.indexing.plan import Plan
from shoal.indexing.publish import field_types, make_manifest, write_corpus_terms, write_reports
from shoal.indexing.recall import Tuning
from shoal.indexing.sample import sample_vectors
from shoal.indexing.shards import count_shard, index_shard
from shoal.indexing.training import train_index
from shoal.indexing.verify import count_problems, verify_shard


def publish_units(plan: Plan, storage: Storage, tally: Tally, threads: int, verify_queries: int) -> Manifest:
    """Index, verify and publish what the units of a plan hold; what is done already is only looked up.

    Args:
        plan: What is built, which lies in staging.
        storage: The index root.
        tally: Counts of all of its units.
        threads: CPU threads of the index kind.
        verify_queries: Sampled passages for which the index is compared with exact search.

    Raises:
        CorruptIndex: What was stored is not what was counted; nothing is published.
        Conflict: Another run of the same build is faster.
    """
    train_index(plan, storage, tally.passages, threads)
    if plan.lexical.lexical:
        for shard in range(plan.shards):
            count_shard(plan, shard, storage)
        merge_shards(plan, storage)
    commits, index = _index(plan, storage, tally, threads, verify_queries)
    _verify(plan, storage, tally)
    files = write_reports(plan, tally, storage) + write_corpus_terms(plan, storage)
    manifest = make_manifest(plan, tally, commits, index, files, describe_lexical(plan, storage))
    versions.publish(storage, manifest)
    return manifest


def _index(
    plan: Plan, storage: Storage, tally: Tally, threads: int, verify_queries: int
) -> tuple[list[ShardCommit], VectorIndexInfo]:
    """Index every shard, and tune the search over all of them."""
    queries = sample_vectors(storage, plan.hash, tally.passages, plan.shards, plan.encoder.dim, verify_queries, seed=2)
    fields, tuning, commits = field_types(plan, tally), Tuning(), []
    for shard in range(plan.shards):
        commit = index_shard(plan, shard, storage, queries, threads, fields)
        tally.add_shard(commit)
        tuning.add(commit.trials)
        commits.append(commit.without_sample())
    return commits, tuning.describe(plan.index)


def _verify(plan: Plan, storage: Storage, tally: Tally) -> None:
    """Read everything that was stored once more; a shard with problems is indexed anew by the next run."""
    problems = []
    for shard in range(plan.shards):
        if found := verify_shard(plan, read_shard_commit(storage, plan.hash, shard), storage):
            storage.delete(layout.shard_commit(plan.hash, shard))
            problems += found
    problems = [*count_problems(plan, tally, storage), *problems]
    if problems:
        raise CorruptIndex(
            f"nothing is published: {problems[0]} ({len(problems)} problems); run the same command again"
        )
