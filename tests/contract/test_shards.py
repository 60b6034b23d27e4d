"""Shards of every index kind, read as a server reads them from a remote root: out of its cache, and with filters."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from shoal.errors import CorruptIndex
from shoal.filters import parse
from shoal.index_root import layout
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import index_kind, kinds
from shoal.records import FloatArray, Passage
from shoal.settings import IndexSettings
from shoal.shard.messages import dense_queries
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from shoal.shard.writer import write_shard
from tests.support.manifests import describe

COUNT, DIM, TOP, VERSION = 1500, 16, 10, "v1"
FIELDS = {"row": "integer"}


class Bucket(Storage):
    """A folder that cannot be mapped where it lies, as if it were an object store."""

    @property
    def is_local(self) -> bool:
        return False


class Remote(NamedTuple):
    kind: str
    storage: Bucket
    manifest: Manifest


def normalised(count: int, seed: int) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = normalised(COUNT, seed=1), normalised(20, seed=2)


@pytest.fixture(scope="module", params=kinds())
def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    kind, root = request.param, tmp_path_factory.mktemp("root")
    entry = write_shard(
        root / layout.shard_dir(VERSION, 0),
        [(to_batch([Passage(f"p{row}", "x", metadata={"row": row}) for row in range(COUNT)]), VECTORS)],
        shard=0,
        dim=DIM,
        kind=kind,
        trained=index_kind(kind).train(VECTORS[:500], IndexSettings(index_kind=kind), 1),
        threads=1,
        fields=FIELDS,  # type: ignore[arg-type]
    )
    manifest = describe(VERSION, [entry], dim=DIM, kind=kind, fields=FIELDS)
    return Remote(kind, Bucket(str(root)), manifest)


def opened(remote: Remote, folder: Path) -> Shard:
    return Shard.open(remote.storage, remote.manifest, 0, cache=ShardCache(folder, 10_000_000), threads=1)


def recall(rows: np.ndarray, allowed: np.ndarray) -> float:
    """Share of the nearest of the allowed rows, by numpy, that are among the rows found."""
    scores = QUERIES @ VECTORS.T
    scores[:, ~allowed] = -np.inf
    wanted = np.argsort(-scores, axis=1)[:, :TOP]
    found = [len(set(a) & set(b)) / TOP for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    return float(np.mean(found))


@pytest.mark.parametrize("share", [1, 2, 10, 100])
def test_a_filtered_search_out_of_the_cache_finds_the_nearest_that_match(
    remote: Remote, share: int, tmp_path: Path
) -> None:
    shard = opened(remote, tmp_path)
    tree = parse({"row": {"$lt": COUNT // share}}, remote.manifest.fields, 100, 16)
    hits = shard.search(dense_queries(QUERIES, [tree] * len(QUERIES)), TOP, True)
    found = hits.by_retriever["dense"]
    assert hits.matches == [COUNT // share] * len(QUERIES)
    assert found.passages is not None
    assert all(passage.metadata["row"] < COUNT // share for line in found.passages for passage in line)
    # Vectors without any structure are the hardest for lists and codes; nothing is tuned here. Few matches are scanned.
    least = 1.0 if remote.kind == "flat" else 0.95 if share == 100 else 0.8
    assert recall(found.rows, np.arange(COUNT) < COUNT // share) >= least
    shard.warm()
    shard.close()


def test_every_file_of_a_shard_is_fetched_and_checked(remote: Remote, tmp_path: Path) -> None:
    files = {file.path.partition("/")[2]: file for file in remote.manifest.shards[0].files}
    assert (layout.EXACT in files) == index_kind(remote.kind).EXACT
    opened(remote, tmp_path / "cache").close()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {file.sha256 for file in files.values()}
    for name in files.keys() & {layout.VECTORS, layout.EXACT}:
        path = f"{layout.shard_dir(VERSION, 0)}/{name}"
        whole = remote.storage.read(path)
        remote.storage.write(path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptIndex, match=name):
            opened(remote, tmp_path / name)
        remote.storage.write(path, whole)


def test_what_a_query_reads_by_the_row_is_not_read_when_a_shard_is_warmed(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = opened(remote, tmp_path)
    read: list[str] = []
    chunks = Storage.chunks
    monkeypatch.setattr(Storage, "chunks", lambda storage, path: read.append(path) or chunks(storage, path))
    shard.warm()
    shard.close()
    files = {file.path.partition("/")[2]: file.sha256 for file in remote.manifest.shards[0].files}
    assert sorted(read) == sorted(digest for name, digest in files.items() if name != layout.EXACT)
