"""A build in a folder, stage by stage, without Ray."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.encoders import Encoder, load_encoder
from shoal.index_root import layout, versions
from shoal.index_root.manifest import VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.indexing.base import choose_base, open_base
from shoal.indexing.commits import (
    ShardCommit,
    Tally,
)
from shoal.indexing.embed import embed_unit
from shoal.indexing.lexical import describe_lexical, merge_shards
from shoal.indexing.plan import Plan, make_plan
from shoal.indexing.publish import (
    field_types,
    make_manifest,
    write_corpus_terms,
    write_rejected,
    write_reports,
)
from shoal.indexing.recall import Tuning
from shoal.indexing.sample import sample_vectors
from shoal.indexing.shards import count_shard, index_shard
from shoal.indexing.spool import spool
from shoal.indexing.tokens import inherit_codec, inherited_version, read_codec, train_codec
from shoal.late.codec import Codec
from shoal.records import FloatArray
from shoal.settings import BuildSettings
from shoal.shard.reader import Shard

DIM = 16


def jsonl(path: Path, records: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records))
    return path


def records(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{n}", "text": f"passage {n} about topic {n % 7}", "page": n} for n in range(count)]


class Refusing:
    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        raise AssertionError("nothing is to be encoded")


class Build:
    """One build in a folder, stage by stage."""

    def __init__(self, folder: Path | str, source: Path, **changes: Any) -> None:
        self.settings = BuildSettings.model_validate(
            {"source": str(source), "index": str(folder), "encoder": f"hashing:{DIM}", "shards": 3, "unit_passages": 10}
            | changes
        )
        self.storage = Storage(self.settings.index)
        self.encoder: Encoder = load_encoder(self.settings)
        planned = make_plan(self.settings, self.encoder.fingerprint())
        self.remark: str | None = None
        if not self.settings.reembed:
            planned, self.remark = choose_base(planned, self.storage)
        self.plan: Plan = spool(planned, self.storage)
        self.tally = Tally(len(self.plan.units), self.plan.shards)

    def embed(self) -> "Build":
        codec, base = self.codec(), open_base(self.plan, self.storage)
        for unit in self.plan.units:
            self.tally.add_commit(embed_unit(self.plan, unit, self.encoder, self.storage, codec, base))
        return self

    def codec(self) -> Codec | None:
        """What token vectors are rounded with, taken over from a version or learned."""
        if not self.plan.stores_tokens:
            return None
        if inherited_version(self.plan) is None:
            train_codec(self.plan, self.encoder, self.storage)
        else:
            inherit_codec(self.plan, self.storage)
        return read_codec(self.plan, self.storage)

    def index(self, queries: int = 5) -> list[ShardCommit]:
        sample = sample_vectors(
            self.storage, self.plan.hash, self.tally.passages, self.plan.shards, self.plan.encoder.dim, queries, seed=2
        )
        self.count()
        fields = field_types(self.plan, self.tally)
        commits = [index_shard(self.plan, shard, self.storage, sample, 1, fields) for shard in range(self.plan.shards)]
        for commit in commits:
            self.tally.add_shard(commit)
        return commits

    def count(self) -> None:
        if self.plan.lexical.lexical:
            for shard in range(self.plan.shards):
                count_shard(self.plan, shard, self.storage)
            merge_shards(self.plan, self.storage)

    def publish(self) -> str:
        commits = self.index()
        files = write_reports(self.plan, self.tally, self.storage) + write_corpus_terms(self.plan, self.storage)
        lexical = describe_lexical(self.plan, self.storage)
        versions.publish(
            self.storage, make_manifest(self.plan, self.tally, commits, tuned(self.plan, commits), files, lexical)
        )
        return self.plan.version

    def report(self) -> list[dict[str, Any]]:
        write_rejected(self.plan, self.tally, self.storage)
        return [json.loads(line) for line in self.storage.read(layout.rejected(self.plan.version)).splitlines()]

    def staged(self) -> dict[str, bytes]:
        folder = layout.units_dir(self.plan.hash)
        return {path: self.storage.read(f"{folder}/{path}") for path in self.storage.files(folder)}


def tuned(plan: Plan, commits: Sequence[ShardCommit]) -> VectorIndexInfo:
    tuning = Tuning()
    for commit in commits:
        tuning.add(commit.trials)
    return tuning.describe(plan.index)


def untimed(commit: ShardCommit) -> ShardCommit:
    return commit.model_copy(
        update={"trials": [trial.model_copy(update={"latency_ms": None}) for trial in commit.trials]}
    )


def passages_of(build: Build, commits: Sequence[ShardCommit]) -> dict[str, tuple[int, FloatArray]]:
    """Every indexed passage: its shard and its vector."""
    manifest = make_manifest(build.plan, build.tally, commits, tuned(build.plan, commits), [], None)
    found = {}
    for entry in manifest.shards:
        shard = Shard.open(build.storage, manifest, entry.shard, cache=None, threads=1)
        fetched = shard.fetch(list(range(shard.count)), True)
        assert fetched.vectors is not None
        for passage, vector in zip(fetched.passages, fetched.vectors, strict=True):
            assert passage.id not in found
            found[passage.id] = (entry.shard, vector)
        shard.close()
    return found
