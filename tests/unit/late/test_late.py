"""Token vectors in the shards: the codec against numpy, the files, and MaxSim where they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shoal.encoders import TextVectors, TokenEncoder, load_encoder
from shoal.errors import CorruptIndex, InvalidArgument
from shoal.evaluation.asking import LocalAsker
from shoal.index_root import layout, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.late import codec
from shoal.late.codec import STEPS, Codec, pack, unpack
from shoal.late.writer import TokenWriter, column_of
from shoal.modes import Mode
from shoal.records import FloatArray, Passage
from shoal.rerankers.late_interaction import DENSE_WEIGHT, LateInteraction
from shoal.settings import EncoderSettings, LateSettings, LexicalSettings, ServeSettings
from shoal.shard.reader import Shard
from tests.support.indexes import damage, passages, publish

HIDDEN = 64
PRECISE = LateSettings(late_interaction="stored", late_dims=HIDDEN, late_bits=8)
QUERIES = ["green fish", "the white snail number n17", "black", "heron and otter n3 n4"]
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")


def tokens(count: int, seed: int = 0, hidden: int = HIDDEN) -> FloatArray:
    """Unit vectors that vary little along most axes and have a common direction, as those of a transformer."""
    found = np.random.default_rng(seed).standard_normal((count, hidden)) / np.arange(1, hidden + 1) + 0.1
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def levels(learned: Codec, codes: NDArray[np.uint8]) -> FloatArray:
    """What codes stand for, float32 (t, dims), by the definition."""
    numbers = unpack(codes, learned.bits) - (2**learned.bits - 1) / 2
    found: FloatArray = learned.means + learned.steps * numbers
    return found


def unit(vectors: FloatArray) -> FloatArray:
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_codes_come_back_from_their_bytes(bits: int, count: int, groups: int, random: Any) -> None:
    codes = np.array([[random.randrange(2**bits) for _ in range(8 * groups)] for _ in range(count)], np.uint8).reshape(
        count, 8 * groups
    )
    packed = pack(codes, bits)
    assert packed.shape == (count, groups * bits)
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_the_axes_are_the_principal_components() -> None:
    sample = tokens(500)
    learned = codec.train(sample, 16, 4)
    _, _, axes = np.linalg.svd(sample, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(learned.axes * axes[:16], axis=1)), 1, atol=1e-4)
    components = unit(sample @ learned.axes.T)
    np.testing.assert_allclose(learned.means, components.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(learned.steps, STEPS[4] * components.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.3634), (2, 0.1188), (4, 0.01154)])
def test_rounding_costs_what_it_costs_a_gaussian(bits: int, expected: float) -> None:
    """Mean squared errors of the optimal uniform quantisers, for a variance of 1 (Max 1960, table II)."""
    sample = unit(np.random.default_rng(1).standard_normal((20_000, 64)).astype(np.float32))
    learned = codec.train(sample, 64, bits)
    components = sample @ learned.axes.T
    error = np.mean((levels(learned, learned.encode(sample)) - components) ** 2) / components.var()
    assert error == pytest.approx(expected, rel=0.1)  # components of unit vectors are nearly Gaussian


def test_levels_are_those_of_the_definition() -> None:
    sample = tokens(400)
    for bits in STEPS:
        learned = codec.train(sample, 24, bits)
        codes = learned.encode(sample[:50])
        np.testing.assert_allclose(codec.levels_of(codes, learned.projection, bits), levels(learned, codes), atol=1e-6)
        # The nearest level, but for what lies beyond the last one.
        components = unit(sample[:50] @ learned.axes.T)
        inside = np.abs((components - learned.means) / learned.steps) < 2**bits / 2
        error = np.abs(levels(learned, codes) - components) / learned.steps
        assert error[inside].max() <= 0.5 + 1e-3


def test_a_codec_survives_its_bytes_and_names_what_it_cannot_do() -> None:
    learned = codec.train(tokens(100), 16, 2)
    again = Codec.from_bytes(learned.to_bytes())
    np.testing.assert_array_equal(again.projection, learned.projection)
    assert (again.bits, again.width) == (2, 4)
    with pytest.raises(CorruptIndex, match="staging"):
        Codec.from_bytes(learned.to_bytes()[:-40])
    with pytest.raises(InvalidArgument, match="late_dims=72, but the encoder's token vectors have 64") as error:
        codec.train(tokens(100), 72, 2)
    assert error.value.param == "late_dims"


def test_what_does_not_vary_and_what_is_not_finite_is_rounded_to_something() -> None:
    learned = codec.train(np.ones((3, HIDDEN), np.float32), 8, 4)
    assert np.isfinite(levels(learned, learned.encode(np.full((2, HIDDEN), np.nan, np.float32)))).all()


def test_the_scores_are_late_interaction_over_the_rounded_vectors(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", passages(60), shards=1, late=PRECISE)
    shard, encoder = opened(tmp_path / "root", manifest)[0], token_encoder()
    rows = [3, 59, 0, 17]
    texts = [passage.content for passage in shard.fetch(rows).passages]
    for query in encoder.encode_query_tokens(QUERIES):
        expected = reference(query, encoder.encode_passage_tokens(texts))
        np.testing.assert_allclose(shard.score(query, rows), expected, atol=0.05)
    reranker = LateInteraction(encoder, 0)
    found = shard.score(encoder.encode_query_tokens(QUERIES[:1])[0], rows)
    np.testing.assert_allclose(found, reranker.score(QUERIES[0], texts), atol=0.05)
    shard.close()


def reference(query: TextVectors, texts: Sequence[TextVectors]) -> list[float]:
    """The formula of `shoal.rerankers.late_interaction`, term by term."""
    return [
        DENSE_WEIGHT * float(query.vector @ text.vector)
        + (1 - DENSE_WEIGHT) * float(np.mean([max(token @ other for other in text.tokens) for token in query.tokens]))
        for text in texts
    ]


@given(st.lists(st.integers(0, 199), min_size=1, max_size=150), st.integers(0, 3))
def test_a_row_has_the_same_score_whatever_is_scored_with_it(stored: Shard, rows: list[int], query: int) -> None:
    vectors = token_encoder().encode_query_tokens(QUERIES)[query]
    together = stored.score(vectors, rows)
    np.testing.assert_array_equal(together, [stored.score(vectors, [row])[0] for row in rows])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    root = tmp_path_factory.mktemp("stored") / "root"
    small = LateSettings(late_interaction="stored", late_dims=24, late_bits=4)
    return opened(root, publish(root, "v1", passages(200), shards=1, late=small))[0]


def test_answers_do_not_depend_on_the_number_of_shards(tmp_path: Path) -> None:
    small = LateSettings(late_interaction="stored", late_dims=16, late_bits=4)
    answers = {}
    for shards in (1, 3, 8):
        root = tmp_path / str(shards) / "root"
        manifest = publish(root, "v1", distinct(120), shards=shards, lexical=LexicalSettings(), late=small)
        with asker(root, manifest) as one:
            found = [one.answer(query, mode, "late", 20) for query in QUERIES for mode in MODES]
        assert {(answer.reranked, answer.reranker, answer.degraded) for answer in found} == {(True, "late", None)}
        answers[shards] = [[(line.id, line.score, line.rerank_score) for line in one.results] for one in found]
    assert answers[1] == answers[3] == answers[8]
    assert all(len(one) == 20 for one in answers[1][::3])


def test_a_version_without_token_vectors_says_what_to_do(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", passages(10))
    with asker(tmp_path / "root", manifest) as one:
        assert not one.late
        with pytest.raises(InvalidArgument, match="build it with --late-interaction stored") as error:
            one.answer("fish", "dense", "late", 5)
    assert error.value.param == "rerank"
    with pytest.raises(InvalidArgument, match="--late-interaction stored"):
        opened(tmp_path / "root", manifest)[0].score(token_encoder().encode_query_tokens(["fish"])[0], [0])


def test_queries_and_rows_have_to_fit(stored: Shard) -> None:
    vector = np.zeros(64, np.float32)
    for wrong in (np.zeros((2, 63), np.float32), np.zeros((0, 64), np.float32)):
        with pytest.raises(InvalidArgument, match=r"the index needs \(t, 64\)"):
            stored.score(TextVectors(vector, wrong), [0])
    with pytest.raises(InvalidArgument, match="row 200 is outside"):
        stored.score(TextVectors(vector, np.zeros((1, 64), np.float32)), [200])


@pytest.mark.parametrize("name", [layout.LATE_CODES, layout.LATE_OFFSETS, layout.LATE_PROJECTION])
def test_a_damaged_file_is_found(tmp_path: Path, name: str) -> None:
    manifest = publish(tmp_path / "root", "v1", passages(30), late=PRECISE)
    path = damage(tmp_path / "root", "v1", 0, name)
    with pytest.raises(CorruptIndex, match=path.name):
        opened(tmp_path / "root", manifest)
    assert [path.name in problem for problem in versions.verify(Storage(str(tmp_path / "root")), "v1")] == [True]


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", passages(30), late=PRECISE)
    folder = tmp_path / "root" / layout.shard_dir("v1", 0)
    offsets = np.load(folder / layout.LATE_OFFSETS)
    turned = offsets.copy()
    turned[3:5] = turned[4:2:-1]
    for wrong in (offsets[:-1], offsets + 1, turned, offsets.astype(np.float64), np.concatenate([[-5], offsets[1:]])):
        np.save(folder / layout.LATE_OFFSETS, wrong)
        with pytest.raises(CorruptIndex, match="do not fit together"):
            opened(tmp_path / "root", manifest, verify=False)
    np.save(folder / layout.LATE_OFFSETS, offsets)
    projection = np.load(folder / layout.LATE_PROJECTION)
    for wrong in (projection[:, :2], projection * np.float32(np.nan), projection.astype(np.float64)):
        np.save(folder / layout.LATE_PROJECTION, wrong)
        with pytest.raises(CorruptIndex, match="do not fit together"):
            opened(tmp_path / "root", manifest, verify=False)
    np.save(folder / layout.LATE_PROJECTION, projection)
    (folder / layout.LATE_OFFSETS).write_bytes(b"nothing")
    with pytest.raises(CorruptIndex, match="cannot be read"):
        opened(tmp_path / "root", manifest, verify=False)


def test_a_shard_without_passages_has_files_too(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", passages(1), shards=2, late=PRECISE)
    shards = opened(tmp_path / "root", manifest)
    assert sorted(shard.count for shard in shards) == [0, 1]
    empty = next(shard for shard in shards if not shard.count)
    assert empty.score(token_encoder().encode_query_tokens(["fish"])[0], []).shape == (0,)


def test_offsets_of_a_sliced_column_are_those_of_the_slice(tmp_path: Path) -> None:
    codes = [np.full((rows, 4), rows, np.uint8) for rows in (3, 1, 2)]
    batch = pa.RecordBatch.from_arrays([column_of(codes)], names=["tokens"]).slice(1)
    learned = codec.train(tokens(50), 8, 4)
    list(TokenWriter(tmp_path, learned).tee([(batch, None), (batch.slice(2), None), (batch, None)]))
    np.testing.assert_array_equal(np.load(tmp_path / layout.LATE_OFFSETS), [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(np.load(tmp_path / layout.LATE_CODES)[:, 0], [1, 2, 2, 1, 2, 2])


def distinct(count: int) -> list[Passage]:
    """Passages of random words, so that no two are equally near to a query."""
    random = np.random.default_rng(5)
    animals = ["fish", "heron", "otter", "snail", "black", "white", "green"]
    words = [*animals, *(f"n{number}" for number in range(60))]
    return [Passage(f"p{number}", " ".join(random.choice(words, random.integers(4, 15)))) for number in range(count)]


def token_encoder() -> TokenEncoder:
    encoder = load_encoder(EncoderSettings(encoder=f"hashing:{HIDDEN}"))
    assert isinstance(encoder, TokenEncoder)
    return encoder


def opened(root: Path, manifest: Manifest, verify: bool = True) -> list[Shard]:
    storage = Storage(str(root))
    return [
        Shard.open(storage, manifest, entry.shard, cache=None, threads=1, verify=verify) for entry in manifest.shards
    ]


def asker(root: Path, manifest: Manifest) -> LocalAsker:
    settings = ServeSettings(index=str(root), reranker="none")
    return LocalAsker(Storage(str(root)), manifest, token_encoder(), None, settings, 10_000)
