"""An index root in a bucket of a real S3 server: published, verified, served through a cache, rolled back, pruned."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.replicas.shard import Retriever
from shoal.errors import CorruptIndex, NotFound, Unavailable
from shoal.index_root import layout, versions
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.records import Passage
from shoal.settings import ServeSettings
from shoal.shard.messages import ShardSearch, dense_queries
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from shoal.shard.writer import write_shard
from tests.support.building import jsonl, records
from tests.support.incremental import STORED, Build, changed, files_of, forget_documents, train
from tests.support.incremental import publish as built
from tests.support.manifests import describe

DIM, SHARDS, COUNT = 16, 2, 300
PLAN = "1a2b3c4d" * 8
DAYS = [f"202601{day:02d}T000000-1a2b3c4d" for day in (1, 2, 3)]


def vectors(shard: int) -> np.ndarray:
    found = np.random.default_rng(shard).standard_normal((COUNT, DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def publish(storage: Storage, version: str, folder: Path) -> Manifest:
    entries = []
    for shard in range(SHARDS):
        batch = to_batch([Passage(f"{shard}-{row}", f"text {row}", metadata={"row": row}) for row in range(COUNT)])
        entries.append(
            write_shard(
                folder / version / layout.shard_name(shard),
                [(batch, vectors(shard))],
                shard=shard,
                dim=DIM,
                kind="flat",
                trained=None,
                threads=1,
            )
        )
        for file in entries[-1].files:
            storage.put(folder / version / file.path, f"{layout.version_dir(version)}/{file.path}")
    manifest = describe(version, entries, dim=DIM, plan=PLAN)
    versions.publish(storage, manifest)
    return manifest


@pytest.fixture
def storage(s3_uri: str) -> Storage:
    return Storage(s3_uri)


def test_versions_live_their_whole_life_in_a_bucket(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no index root at"):
        versions.read_current(storage)
    for version in DAYS:
        publish(storage, version, tmp_path)
        assert versions.verify(storage, version) == []
    assert versions.list_versions(storage) == DAYS
    assert versions.find_plan(storage, PLAN) == DAYS[2]
    assert versions.read_current(storage) is None
    versions.activate(storage, DAYS[0])
    versions.activate(storage, DAYS[1])
    assert versions.rollback(storage).version == DAYS[0]
    assert versions.prune(storage, keep=0) == [DAYS[2]]
    assert versions.list_versions(storage) == DAYS[:2]
    assert list(storage.files(layout.version_dir(DAYS[2]))) == []
    storage.write(layout.plan("b" * 16), b"{}")
    versions.prune(storage, keep=0)
    assert list(storage.list(layout.STAGING)) == ["b" * 16]
    versions.prune(storage, keep=0, idle_s=0)
    assert list(storage.list(layout.STAGING)) == []


def test_damage_in_a_bucket_is_found_and_refused(storage: Storage, tmp_path: Path) -> None:
    publish(storage, DAYS[0], tmp_path)
    folder = layout.version_dir(DAYS[0])
    for path in list(storage.files(folder)):
        whole = storage.read(f"{folder}/{path}")
        storage.write(f"{folder}/{path}", whole[:-1] + bytes([whole[-1] ^ 1]))
        assert path in versions.verify(storage, DAYS[0])[0]
        with pytest.raises(CorruptIndex):
            versions.activate(storage, DAYS[0])
        storage.write(f"{folder}/{path}", whole)
    storage.write(f"{folder}/shard-00000/extra", b"x")
    assert "extra is not in the manifest" in versions.verify(storage, DAYS[0])[0]


def test_a_shard_is_searched_from_the_cache(storage: Storage, tmp_path: Path) -> None:
    manifest = publish(storage, DAYS[0], tmp_path)
    cache = ShardCache(tmp_path / "cache", 10_000_000)
    shard = Shard.open(storage, manifest, 1, cache=cache, threads=1)
    hits = shard.search(dense_queries(vectors(1)[[7, 250]]), 5, with_passages=True).by_retriever["dense"]
    assert hits.passages is not None
    assert [found[0] for found in hits.passages] == [
        Passage(f"1-{row}", f"text {row}", metadata={"row": row}) for row in (7, 250)
    ]
    wanted = np.argsort(-(vectors(1)[[7, 250]] @ vectors(1).T), axis=1)[:, :5]
    np.testing.assert_array_equal(hits.rows, wanted)

    # A second replica on this machine needs no server any more.
    offline = Storage("s3://bucket/index?endpoint_override=http://127.0.0.1:1&region=us-east-1")
    again = Shard.open(offline, manifest, 1, cache=ShardCache(tmp_path / "cache", 10_000_000), threads=1)
    assert again.search(dense_queries(vectors(1)[[7]]), 1, with_passages=False).by_retriever["dense"].ids == [["1-7"]]
    with pytest.raises(Unavailable):
        Shard.open(offline, manifest, 0, cache=cache, threads=1)


async def test_a_retriever_serves_a_bucket_through_its_cache(storage: Storage, tmp_path: Path) -> None:
    for version in DAYS[:2]:
        publish(storage, version, tmp_path)
    versions.activate(storage, DAYS[0])
    cache = tmp_path / "cache"
    retriever = Retriever(ServeSettings(index=storage.uri, cache_dir=str(cache), cache_bytes=10_000_000), shard=1)
    deadline = time.time() + 60
    hits = await retriever.search(ShardSearch(DAYS[0], dense_queries(vectors(1)[[7]]), 3, True), deadline)
    assert hits.by_retriever["dense"].ids[0][0] == "1-7"
    fetched = await retriever.fetch(DAYS[0], [7], deadline, True)
    np.testing.assert_array_equal(fetched.vectors, vectors(1)[[7]])
    await retriever.prepare(DAYS[1], deadline)
    assert retriever.versions == DAYS[:2]
    later = await retriever.search(ShardSearch(DAYS[1], dense_queries(vectors(1)[[9]]), 1, False), deadline)
    assert later.by_retriever["dense"].ids == [["1-9"]]
    digests = {file.sha256 for file in versions.read_manifest(storage, DAYS[0]).shards[1].files}
    assert digests <= {path.name for path in cache.iterdir()}


def test_a_shard_that_is_damaged_in_the_bucket_is_not_served(storage: Storage, tmp_path: Path) -> None:
    manifest = publish(storage, DAYS[0], tmp_path)
    cache = ShardCache(tmp_path / "cache", 10_000_000)
    for name in (layout.VECTORS, layout.PASSAGES, layout.SHARD):
        path = f"{layout.shard_dir(DAYS[0], 0)}/{name}"
        whole = storage.read(path)
        storage.write(path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptIndex, match=name):
            Shard.open(storage, manifest, 0, cache=cache, threads=1)
        storage.write(path, whole)
    Shard.open(storage, manifest, 0, cache=cache, threads=1)


def test_an_open_shard_stays_in_a_cache_that_is_too_small_for_two(storage: Storage, tmp_path: Path) -> None:
    manifest = publish(storage, DAYS[0], tmp_path)
    size = sum(file.bytes for file in manifest.shards[0].files)
    cache = ShardCache(tmp_path / "cache", int(size * 1.5))
    shard = Shard.open(storage, manifest, 0, cache=cache, threads=1)
    with pytest.raises(Exception, match="raise cache_bytes"):
        Shard.open(storage, manifest, 1, cache=cache, threads=1)
    assert shard.search(dense_queries(vectors(0)[:1]), 1, with_passages=False).by_retriever["dense"].ids == [["0-0"]]
    shard.close()
    assert Shard.open(storage, manifest, 1, cache=cache, threads=1).count == COUNT


@pytest.mark.parametrize("options", [{}, STORED, {"index_kind": "rabitq"}, {"index_kind": "ivf"}], ids=str)
@pytest.mark.parametrize("older", [False, True])
def test_a_build_copies_from_a_version_in_a_bucket(
    s3_uri: str, tmp_path: Path, options: dict[str, Any], older: bool
) -> None:
    """The same as from a folder, which is compared with a build from nothing elsewhere."""
    old, new = jsonl(tmp_path / "old.jsonl", records(300)), jsonl(tmp_path / "new.jsonl", changed(300))
    outcomes = []
    for root in (s3_uri, tmp_path / "index"):
        base = Build(root, old, unit_passages=150, **options)
        train(base)
        before, _ = built(base)
        if older:
            forget_documents(base, before)
        build = Build(root, new, shards=2, unit_passages=150, **{**options, "index_kind": "flat"})
        manifest, encoded = built(build)
        outcomes.append((files_of(manifest), encoded))
    assert len(outcomes[0][1]) == 3
    assert outcomes[0] == outcomes[1]


WORKER = """
import json, random, sys
from shoal.index_root.cache import ShardCache
from shoal.errors import InvalidArgument
from shoal.index_root.storage import Storage
root, folder, bound, files, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]), int(sys.argv[5])
storage, cache, choose, held = Storage(root), ShardCache(folder, bound), random.Random(seed), []
print("started", flush=True)
for _ in range(int(sys.argv[6])):
    path, sha256, size, letter = choose.choice(files)
    try:
        held.append((cache.path(storage, path, sha256, size), size, letter))
    except InvalidArgument:  # everything is in use just now
        pass
    for local, size, letter in held:
        assert local.read_bytes() == letter.encode() * size, local
    while len(held) > 1:
        cache.release(held.pop(0)[0])
"""


@pytest.fixture
def start_worker(storage: Storage, tmp_path: Path) -> Callable[[int, int], subprocess.Popen[str]]:
    import hashlib
    import json

    files = []
    for letter in "abcdefgh":
        data = letter.encode() * 50_000
        storage.write(letter, data)
        files.append((letter, hashlib.sha256(data).hexdigest(), len(data), letter))

    def start(seed: int, rounds: int) -> "subprocess.Popen[str]":
        arguments = [storage.uri, str(tmp_path / "cache"), "220000", json.dumps(files), str(seed), str(rounds)]
        return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True)

    return start


def test_processes_share_a_small_cache(
    start_worker: Callable[[int, int], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """Whoever holds a file finds it whole on the disk whatever the others evict, and the bound holds."""
    workers = [start_worker(seed, 60) for seed in range(3)]
    largest = 0
    while any(worker.poll() is None for worker in workers):
        sizes = []
        for path in (tmp_path / "cache").glob("*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        largest = max(largest, sum(sizes))
        time.sleep(0.002)
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    # Listing is not atomic: a file may be seen under its temporary and its final name.
    assert largest <= 220_000 + 50_000


def test_a_killed_process_holds_nothing(
    start_worker: Callable[[int, int], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    victim = start_worker(1, 1_000_000)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "started\n"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    heirs = [start_worker(seed, 20) for seed in (2, 3)]
    assert [heir.wait(timeout=60) for heir in heirs] == [0, 0]
