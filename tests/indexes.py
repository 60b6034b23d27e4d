"""Small published index versions, written as the build job writes them but without it."""

from collections.abc import Sequence
from pathlib import Path

from shoal import layout, versions
from shoal.encoders import load_encoder
from shoal.manifest import CorpusStatistics, Counts, IndexInfo, Manifest
from shoal.metadata import Observed
from shoal.plan import shard_of
from shoal.records import Passage
from shoal.settings import EncoderSettings
from shoal.shard import to_batch, write_shard
from shoal.storage import Storage

PLAN = "1a2b3c4d" * 8


def passages(count: int, marker: str = "") -> list[Passage]:
    """Passages with ids p0, p1, ... whose texts differ; `marker` is a word that all of them hold."""
    colours, animals = ("red", "green", "blue", "black", "white"), ("fish", "heron", "otter", "snail", "newt", "frog")
    return [
        Passage(
            f"p{number}",
            f"the {colours[number % 5]} {animals[number % 6]} number n{number} {marker}".strip(),
            metadata={"number": number},
        )
        for number in range(count)
    ]


def publish(
    root: Path,
    version: str,
    content: Sequence[Passage],
    *,
    shards: int = 2,
    encoder: str = "hashing:64",
    activate: bool = True,
) -> Manifest:
    """Publish a flat index of the passages as a version of a local index root, and make it current."""
    storage, model = Storage(str(root)), load_encoder(EncoderSettings(encoder=encoder))
    entries = []
    observed = Observed()
    for passage in content:
        observed.see(passage.metadata)
    fields = observed.types({})
    for shard in range(shards):
        own = [passage for passage in content if shard_of(passage.id, shards) == shard]
        block = (to_batch(own), model.encode_passages([passage.content for passage in own]))
        folder = storage.local_path(layout.shard_dir(version, shard))
        entries.append(
            write_shard(
                folder, [block], shard=shard, dim=model.dim, kind="flat", trained=None, threads=1, fields=fields
            )
        )
    text_bytes = sum(len(passage.text.encode()) for passage in content)
    manifest = Manifest(
        version=version,
        plan=PLAN,
        created_at="2026-11-22T23:34:11+00:00",
        encoder=model.fingerprint(),
        dim=model.dim,
        index=IndexInfo(kind="flat", search="", recall_at_10=None, latency_ms=None),
        shards=entries,
        counts=Counts(input=len(content), passages=len(content), duplicates=0, rejected=0),
        statistics=CorpusStatistics(text_bytes=text_bytes, mean_text_bytes=text_bytes / len(content)),
        fields=fields,
        build={},
    )
    versions.publish(storage, manifest)
    if activate:
        versions.activate(storage, version)
    return manifest


def damage(root: Path, version: str, shard: int = 0) -> Path:
    """Flip one byte in the vectors of a shard and return the file."""
    path = root / layout.shard_dir(version, shard) / layout.VECTORS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path
