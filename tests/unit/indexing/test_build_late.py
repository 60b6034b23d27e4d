"""Builds that store token vectors, stage by stage, without Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.build import tasks
from shoal.encoders import TextVectors, TokenEncoder
from shoal.encoders.hashing import HashingEncoder
from shoal.errors import Conflict, InvalidArgument
from shoal.index_root import layout, versions
from shoal.index_root.manifest import LateInfo, Manifest
from shoal.indexing import embed, tokens
from shoal.indexing.commits import read_shard_commit
from shoal.indexing.embed import embed_unit, encode_tokens
from shoal.indexing.plan import make_plan
from shoal.indexing.publish import field_types
from shoal.indexing.shards import index_shard
from shoal.indexing.tokens import read_codec, train_codec
from shoal.indexing.unit_input import read_unit
from shoal.indexing.verify import verify_shard
from shoal.late import codec
from shoal.late.codec import Codec
from shoal.records import FloatArray
from shoal.shard.reader import Shard
from tests.unit.indexing.test_build import Build, jsonl, records

STORED: dict[str, Any] = {"late_interaction": "stored", "late_dims": 8, "late_bits": 8}
DIM = 16


def other_codec() -> Codec:
    """A reduction that no build of these tests learns."""
    return codec.train(np.random.default_rng(9).standard_normal((50, DIM)), STORED["late_dims"], STORED["late_bits"])


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
            self.tally.add_commit(commit)
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
    build = StoredBuild(tmp_path / "root", source)
    path = layout.codec(build.plan.hash)
    build.storage.write(path, other_codec().to_bytes())
    build.embed()
    before = build.staged()
    build.storage.delete(path)  # as clearing the staging folder may leave it
    again = StoredBuild(tmp_path / "root", source).embed()
    again.publish()
    assert again.staged().keys() == before.keys()
    assert all(again.staged()[name] != data for name, data in before.items())
    whole = StoredBuild(tmp_path / "whole", source).embed()
    whole.publish()
    assert again.staged() == whole.staged()
    assert again.late_files() == whole.late_files()


def test_of_two_runs_the_slower_one_keeps_the_reduction_of_the_faster(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)
    path = layout.codec(build.plan.hash)

    class Overtaken(HashingEncoder):
        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            if not build.storage.exists(path):
                build.storage.write(path, other_codec().to_bytes())
                codec = read_codec(build.plan, build.storage)
                embed_unit(build.plan, build.plan.units[0], build.encoder, build.storage, codec)
            return super().encode_passage_tokens(texts)

    train_codec(build.plan, Overtaken(DIM, 64), build.storage)
    assert build.storage.read(path) == other_codec().to_bytes()
    assert build.staged().keys() == {"00000000.arrow", "00000000.json"}


def test_a_unit_that_another_run_reduced_is_never_indexed_and_embedded_by_the_next_one(
    tmp_path: Path, source: Path
) -> None:
    build = StoredBuild(tmp_path / "root", source).embed()
    name, commit = layout.unit_data(build.plan.hash, 3), layout.unit_commit(build.plan.hash, 3)
    whole, record = build.staged(), build.storage.read(commit)
    other = other_codec()
    build.storage.delete(commit)
    embed_unit(build.plan, build.plan.units[3], build.encoder, build.storage, other)
    # Its data came last, and the commit record of this run after them.
    build.storage.write(commit, record)
    assert build.storage.read(name) != whole["00000003.arrow"]
    with pytest.raises(Conflict, match="token vectors of unit 3 otherwise; run it again"):
        build.index()
    again = StoredBuild(tmp_path / "root", source).embed()
    assert again.staged() == whole
    again.index()
    # A shard that was indexed with another one is indexed anew as well.
    shard = read_shard_commit(again.storage, again.plan.hash, 0)
    stale = shard.model_copy(update={"codec": other.digest, "text_bytes": -1})
    again.storage.write(layout.shard_commit(again.plan.hash, 0), stale.model_dump_json().encode())
    fields = field_types(again.plan, again.tally)
    queries = np.zeros((0, DIM), np.float32)
    assert index_shard(again.plan, 0, again.storage, queries, 1, fields).text_bytes == shard.text_bytes


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
    # Texts of some 25 bytes have 27 tokens at most.
    monkeypatch.setattr(embed, "TOKEN_BYTES", 4 * 4 * DIM * 28)
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


def test_few_long_texts_are_held_at_once_and_many_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "TOKEN_BYTES", 4 * DIM * 100)
    calls: list[list[int]] = []

    class Recorded(HashingEncoder):
        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            calls.append([len(text) for text in texts])
            return super().encode_passage_tokens(texts)

    texts = ["x" * length for length in (8, 1000, 8, 48, 8, 1000, 48, 0)]
    encoder = Recorded(DIM, 64)
    found = dict(encode_tokens(encoder, texts, 64, DIM))
    assert calls == [[1000], [1000], [48, 48], [8, 8, 8, 0]]
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(found[row].vector, encoder.encode_passages([text])[0])
    assert list(encode_tokens(encoder, [], 64, DIM)) == []


def test_the_sample_is_encoded_in_parts_and_reduced_at_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LEAST", 512)  # everything
    whole = StoredBuild(tmp_path / "whole", source)
    train_codec(whole.plan, whole.encoder, whole.storage)
    monkeypatch.setattr(embed, "TOKEN_BYTES", 4 * 4 * DIM * 28)
    parts = StoredBuild(tmp_path / "parts", source)
    calls: list[int] = []

    class Recorded(HashingEncoder):
        def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
            calls.append(len(texts))
            return super().encode_passage_tokens(texts)

    train_codec(parts.plan, Recorded(DIM, 64), parts.storage)
    assert max(calls) == 4
    assert sum(calls) == 1 + 66  # a word, to learn how long token vectors are; one passage is there twice
    assert read_codec(parts.plan, parts.storage).digest == read_codec(whole.plan, whole.storage).digest


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


def test_the_sample_comes_from_all_over_each_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "UNITS", 2)
    monkeypatch.setattr(tokens, "PASSAGES", 8)
    corpus = jsonl(tmp_path / "corpus.jsonl", records(400))
    build = StoredBuild(tmp_path / "root", corpus, unit_passages=100)
    texts = tokens._sample(build.plan, build.storage)
    chosen = []
    for unit in build.plan.units:
        held = [item[1].content for item in read_unit(build.plan, unit, build.storage) if isinstance(item, tuple)]
        if places := [held.index(text) for text in texts if text in held]:
            chosen.append([place * 4 // len(held) for place in places])
    assert chosen == [[0, 1, 2, 3]] * 2


def test_a_small_build_encodes_few_passages_twice(tmp_path: Path) -> None:
    for count, expected in ((20, 20), (400, 32), (960, 60)):
        corpus = jsonl(tmp_path / f"{count}.jsonl", records(count))
        build = StoredBuild(tmp_path / f"root-{count}", corpus, unit_passages=1000)
        assert abs(len(tokens._sample(build.plan, build.storage)) - expected) <= expected // 5


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


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path, source: Path) -> None:
    plain = Build(tmp_path / "root", source)
    settings = plain.settings.model_copy(update={**STORED, "index_kind": "IVF4,PQ4x4fs"})
    with pytest.raises(InvalidArgument, match=r"late_interaction=stored .* index_kind=IVF4,PQ4x4fs cannot give back"):
        make_plan(settings, plain.encoder.fingerprint())
    make_plan(settings.model_copy(update={"late_interaction": "none"}), plain.encoder.fingerprint())
    settings = plain.settings.model_copy(update={**STORED, "late_dims": DIM + 8})
    with pytest.raises(InvalidArgument, match=rf"late_dims=24, but .* have {DIM} dimensions") as error:
        tasks.fingerprint(settings)
    assert error.value.param == "late_dims"
    settings = settings.model_copy(update=STORED)
    assert tasks.fingerprint(settings) == plain.encoder.fingerprint()
    with pytest.raises(InvalidArgument, match="the encoder takes no instruction"):
        tasks.fingerprint(settings.model_copy(update={"query_instruction": "find claims"}))
    assert not list(plain.storage.files(""))


def test_a_plan_over_a_base_lets_go_of_the_encoder_that_it_was_made_with(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = StoredBuild(tmp_path / "root", source)
    over = build.plan.model_copy(update={"base": "v0"})
    monkeypatch.setattr(tasks, "_held", {})
    monkeypatch.setattr(tasks, "read_plan", lambda root, plan_hash: (over, build.storage))
    monkeypatch.setattr(tasks, "inherit_codec", lambda plan, storage: None)
    tasks.describe_encoder(build.settings)
    assert len(tasks._held) == 1
    tasks.learn_codec(build.settings, build.storage.uri, over.hash)
    assert not tasks._held


def test_the_workers_read_what_was_learned(tmp_path: Path, source: Path) -> None:
    build = StoredBuild(tmp_path / "root", source)
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    tasks.learn_codec(build.settings, build.storage.uri, build.plan.hash)
    worker = tasks.Embedder(build.settings, build.storage.uri, build.plan.hash)
    done = worker({"item": np.array([1])})
    assert done["rows"].sum() == 10
    assert done["busy_s"][0] > 0
