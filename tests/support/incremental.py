"""What tests of builds share that copy from the version before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.encoders import TextVectors, TokenEncoder
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.indexes import index_kind
from shoal.indexing.commits import Tally
from shoal.indexing.sample import sample_vectors
from shoal.records import FloatArray
from tests.support.building import DIM, records
from tests.support.building import Build as PlainBuild

STORED: dict[str, Any] = {"late_interaction": "stored", "late_dims": 8}


class Build(PlainBuild):
    """A build of records that may have titles."""

    def __init__(self, folder: Path | str, source: Path, **changes: Any) -> None:
        super().__init__(folder, source, title_field="title", **changes)


class Counting:
    """An encoder that remembers what it was asked for."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.texts: list[str] = []

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        self.texts += texts
        found: FloatArray = self._encoder.encode_passages(texts)
        return found

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        self.texts += texts
        assert isinstance(self._encoder, TokenEncoder)
        return self._encoder.encode_passage_tokens(texts)


def publish(build: Build) -> tuple[Manifest, list[str]]:
    """Run a build to its end; returns the manifest, and the texts that were encoded."""
    if build.plan.stores_tokens:
        build.codec()  # learned with the encoder itself
    counting = Counting(build.encoder)
    build.encoder = counting  # type: ignore[assignment]
    build.embed().publish()
    versions.activate(build.storage, build.plan.version)
    return versions.read_manifest(build.storage, build.plan.version), counting.texts


def files_of(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.all_files()}


def changed(count: int) -> list[dict[str, Any]]:
    """So many records: one removed, one changed, one with another title, one with other metadata, one new."""
    lines = records(count)
    lines[3]["text"] = "something else"
    lines[4]["title"] = "Now with a title"
    lines[5]["page"] = 1000
    return [*lines[:7], *lines[8:], {"id": "new", "text": "a new passage", "page": 1}]


def train(build: Build) -> None:
    """Store a trained index for a build, of the vectors of its own units."""
    build.embed()
    sample = sample_vectors(
        build.storage, build.plan.hash, build.tally.passages, build.plan.shards, DIM, 10_000, seed=1
    )
    trained = index_kind(build.plan.index.index_kind).train(sample, build.plan.index, 1)
    if trained is not None:
        build.storage.write(layout.trained_index(build.plan.hash), trained)
    build.tally = Tally(len(build.plan.units), build.plan.shards)


def forget_documents(build: Build, manifest: Manifest) -> None:
    """Make a version one that was built before there were look-up files."""
    shards = []
    for entry in manifest.shards:
        kept = [file for file in entry.files if not file.path.endswith((layout.DOCUMENTS, layout.ORDER))]
        for file in entry.files:
            if file not in kept:
                build.storage.delete(f"{layout.version_dir(manifest.version)}/{file.path}")
        shards.append(entry.model_copy(update={"files": kept}))
    build.storage.write(layout.manifest(manifest.version), manifest.model_copy(update={"shards": shards}).to_bytes())
    assert not versions.verify(build.storage, manifest.version)
