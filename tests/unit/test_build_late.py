"""Builds that store token vectors, stage by stage, without Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import tasks
from shoal import layout, versions
from shoal.build import embed, tokens
from shoal.build.embed import embed_unit
from shoal.build.tokens import read_codec, train_codec
from shoal.build.verify import verify_shard
from shoal.encoders import TextVectors, TokenEncoder
from shoal.errors import InvalidArgument
from shoal.manifest import LateInfo, Manifest
from shoal.plan import make_plan
from shoal.records import FloatArray
from shoal.shard import Shard
from tests.unit.test_build import Build, jsonl, records

STORED = {"late_interaction": "stored", "late_dims": 8, "late_bits": 8}
DIM = 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "corpus.jsonl", [*records(65), "nothing", records(1)[0]])


class StoredBuild(Build):
    """A build that trains how tokens are reduced before it embeds."""

    def __init__(self, folder: Path, source: Path, **changes: Any) -> None:
        super().__init__(folder, source, **{**STORED, **changes})

    def embed(self) -> "StoredBuild":
        train_codec(self.plan, self.encoder, self.storage)
        codec = read_codec(self.plan, self.storage)
        for unit in self.plan.units:
            commit = embed_unit(self.plan, unit, self.encoder, self.storage, codec)
            self.tally.add_unit(commit.unit, commit.lines, commit.rows, len(commit.rejected), commit.fields)
        return self

    def manifest(self) -> Manifest:
        return versions.read_manifest(self.storage, self.plan.version)

    def late_files(self) -> dict[str, bytes]:
        folder = self.storage.local_path(layout.version_dir(self.plan.version))
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("shard-*/late/*"))}


def test_every_passage_can_be_scored_where_it_lies(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source).embed()
    build.publish()
    manifest = build.manifest()
    assert manifest.late == LateInfo(dims=8, bits=8)
    assert versions.verify(build.storage, manifest.version) == []
    assert isinstance(build.encoder, TokenEncoder)
    codec = read_codec(build.plan, build.storage)
    (query,) = build.encoder.encode_query_tokens(["passage 7 about topic 0"])
    seen = 0
    for entry in manifest.shards:
        shard = Shard.open(build.storage, manifest, entry.shard, cache=None, threads=1)
        texts = [passage.content for passage in shard.fetch(list(range(shard.count))).passages]
        for row, text in enumerate(build.encoder.encode_passage_tokens(texts)):
            rounded = codec.means + codec.steps * (codec.encode(text.tokens).astype(np.float32) - 127.5)
            own = query.tokens @ codec.axes.T
            late = (unit(own) @ unit(rounded).T).max(axis=1).mean()
            expected = 0.25 * query.vector @ text.vector + 0.75 * late
            np.testing.assert_allclose(shard.score(query, [row]), expected, atol=1e-5)
        seen += shard.count
        shard.close()
    assert seen == 65
    assert np.load(tmp_path / "root" / layout.shard_dir(manifest.version, 0) / layout.LATE_PROJECTION).shape == (
        8,
        DIM + 2,
    )


def unit(vectors: FloatArray) -> FloatArray:
    # A word that is no passage's may lie outside the axes altogether.
    found: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return found


def test_equal_plans_store_equal_tokens_however_a_build_was_interrupted(tmp_path: Path, source: Path) -> None:
    first = StoredBuild(tmp_path / "first", source).embed()
    first.publish()
    second = StoredBuild(tmp_path / "second", source)
    train_codec(second.plan, second.encoder, second.storage)
    codec = read_codec(second.plan, second.storage)
    embed_unit(second.plan, second.plan.units[2], second.encoder, second.storage, codec)  # and was killed
    second.embed().publish()
    assert second.plan.hash == first.plan.hash
    assert second.late_files() == first.late_files()
    assert len(first.late_files()) == 3 * 3


def test_units_are_not_trusted_without_what_reduced_them(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source).embed()
    kept = build.staged()
    build.storage.delete(layout.codec(build.plan.hash))  # as clearing the staging folder may leave it
    train_codec(build.plan, build.encoder, build.storage)
    assert not [path for path in build.staged() if path.endswith(".json")]
    build.embed()
    assert build.staged() == kept


def test_a_reduction_that_is_there_is_not_learned_again(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)
    train_codec(build.plan, build.encoder, build.storage)

    class Unasked:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            raise AssertionError("nothing is to be encoded")

    train_codec(build.plan, Unasked(), build.storage)


def test_one_pass_serves_vectors_and_tokens_and_holds_few_of_them(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "TOKEN_CHUNK", 4)
    build = StoredBuild(tmp_path / "root", source)
    train_codec(build.plan, build.encoder, build.storage)
    calls: list[int] = []
    encoder = build.encoder
    assert isinstance(encoder, TokenEncoder)

    class Counting:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            raise AssertionError("the tokens come with the vectors")

        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            calls.append(len(texts))
            return encoder.encode_passage_tokens(texts)

    codec = read_codec(build.plan, build.storage)
    commit = embed_unit(build.plan, build.plan.units[0], Counting(), build.storage, codec)
    assert sum(calls) == sum(commit.rows)
    assert max(calls) == 4


def test_an_encoder_without_tokens_is_refused_by_the_name_of_the_option(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)

    class Plain:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            return np.zeros((len(texts), DIM), np.float32)

    class Static(Plain):
        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            raise InvalidArgument("the encoder m has no token vectors", param="encoder")

    for encoder, message in ((Plain(), " needs token vectors"), (Static(), ": the encoder m has no token vectors")):
        with pytest.raises(InvalidArgument, match=f"late_interaction=stored{message}") as error:
            train_codec(build.plan, encoder, build.storage)
        assert error.value.param == "late_interaction"


def test_a_passage_that_cannot_be_embedded_is_rejected_with_its_tokens(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)
    train_codec(build.plan, build.encoder, build.storage)
    encoder = build.encoder
    assert isinstance(encoder, TokenEncoder)

    class Broken:
        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            raise AssertionError

        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            return [
                TextVectors(one.vector * np.float32("nan"), one.tokens * np.float32("nan"))
                if "passage 3 " in text
                else one
                for text, one in zip(texts, encoder.encode_passage_tokens(texts), strict=True)
            ]

    codec = read_codec(build.plan, build.storage)
    commit = embed_unit(build.plan, build.plan.units[0], Broken(), build.storage, codec)
    assert [bad.id for bad in commit.rejected] == ["p3"]


def test_an_input_without_passages_is_refused(tmp_path: Path) -> None:
    build = StoredBuild(tmp_path / "root", jsonl(tmp_path / "corpus.jsonl", ["nothing"] * 3))
    with pytest.raises(InvalidArgument, match="nothing to index"):
        train_codec(build.plan, build.encoder, build.storage)


def test_the_sample_is_found_wherever_the_passages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "UNITS", 1)
    corpus = jsonl(tmp_path / "corpus.jsonl", [*["nothing"] * 200, *records(5)])
    build = StoredBuild(tmp_path / "root", corpus, unit_passages=5)
    build.embed().publish()
    assert build.manifest().counts.passages == 5


def test_what_is_stored_is_verified(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source).embed()
    commit = build.index()[0]
    assert verify_shard(build.plan, commit, build.storage) == []
    name = f"{layout.version_dir(build.plan.version)}/shard-00000/{layout.LATE_CODES}"
    data = bytearray(build.storage.read(name))
    data[-1] ^= 1
    build.storage.write(name, bytes(data))
    (problem,) = verify_shard(build.plan, commit, build.storage)
    assert layout.LATE_CODES in problem


def test_the_plan_knows_what_is_stored(tmp_path: Path, source: Path) -> None:
    plain = Build(tmp_path / "root", source)
    hashes = {plain.plan.hash}
    for changes in ({}, {"late_dims": 16}, {"late_bits": 4}):
        hashes.add(StoredBuild(tmp_path / "root", source, **changes).plan.hash)
    assert len(hashes) == 4
    assert Build(tmp_path / "root", source, late_dims=16).plan.hash == plain.plan.hash
    assert plain.plan.settings["late_interaction"] == "none"
    with pytest.raises(InvalidArgument, match="with vectors_field no text is encoded"):
        make_plan(plain.settings.model_copy(update={**STORED, "vectors_field": "vector"}), plain.encoder.fingerprint())


def test_the_workers_read_what_was_learned(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    tasks.learn_codec(build.settings, build.storage.uri, build.plan.hash)
    worker = tasks.Embedder(build.settings, build.storage.uri, build.plan.hash)
    done = worker({"item": np.array([1])})
    assert done["rows"].sum() == 10
    assert done["busy_s"][0] > 0
