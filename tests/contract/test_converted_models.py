"""Converted models in the model cache that are no longer what was written there."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.encoders import Encoder, load_encoder
from shoal.errors import ModelUnavailable
from shoal.inference.compiled import MOST_KEPT
from shoal.inference.digests import is_whole, write_digests
from shoal.settings import EncoderSettings
from tests.support import tiny_models

ENCODABLE = ["red fish", "the heron of vitamin disease", ""]
SEVERAL: dict[str, Any] = {"threads": 2, "batch_tokens": 256}
"""Options by which few texts are several batches."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bi_encoder(tmp_path_factory.mktemp("tiny"))


def load(model: Path, cache: Path, **options: Any) -> Encoder:
    return load_encoder(
        EncoderSettings(encoder=str(model), backend="openvino", device="cpu", model_cache_dir=str(cache), **options)
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        # The highest bit of an exponent: the vectors were others, or not finite, without a word.
        ("transformer.bin", "bit"),
        ("transformer.xml", "cut"),
        ("head.xml", "bit"),
        ("tokenizer.json", "gone"),
        ("digests.json", "gone"),
    ],
)
def test_a_damaged_conversion_is_made_anew(tiny: Path, tmp_path: Path, name: str, damage: str) -> None:
    whole = load(tiny, tmp_path, dtype="float32").encode_passages(ENCODABLE)
    (converted,) = tmp_path.iterdir()
    file = converted / name
    data = file.read_bytes()
    middle = len(data) // 2
    if damage == "gone":
        file.unlink()
    else:
        flipped = data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]
        file.write_bytes(flipped if damage == "bit" else data[:100])
    again = load(tiny, tmp_path, dtype="float32")
    assert np.array_equal(again.encode_passages(ENCODABLE), whole)
    assert list(tmp_path.iterdir()) == [converted]
    assert is_whole(converted)


def test_a_damaged_conversion_with_8_bits_is_made_anew(tiny: Path, tmp_path: Path) -> None:
    whole = load(tiny, tmp_path, dtype="int8").encode_passages(ENCODABLE)
    for weights in tmp_path.glob("*/transformer.bin"):
        weights.write_bytes(bytes(len(weights.read_bytes())))
    again = load(tiny, tmp_path, dtype="int8")
    assert np.array_equal(again.encode_passages(ENCODABLE), whole)


def test_a_conversion_that_cannot_be_read_is_named(tiny: Path, tmp_path: Path) -> None:
    load(tiny, tmp_path)
    (converted,) = tmp_path.iterdir()
    (converted / "head.xml").write_text("as another converter would write it")
    write_digests(converted)
    with pytest.raises(ModelUnavailable, match=f"{converted} cannot be read .*: remove the folder"):
        load(tiny, tmp_path)


@pytest.fixture(scope="module")
def compiled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of models that were loaded in both precisions, with what was compiled for one batch and for several."""
    cache = tmp_path_factory.mktemp("compiled")
    for dtype in ("float32", "int8"):
        vectors(load(tiny, cache, dtype=dtype, **SEVERAL))
    return cache


def vectors(encoder: Encoder) -> np.ndarray:
    """Those of one text, alone, and of several, whose batches are computed side by side."""
    return np.concatenate([encoder.encode_passages(texts) for texts in (ENCODABLE[:1], ENCODABLE * 40)])


def without_compiled(cache: Path, copy: Path) -> Path:
    return Path(shutil.copytree(cache, copy, ignore=shutil.ignore_patterns("compiled")))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_compiled_graph_that_is_kept_computes_the_same_bits(
    tiny: Path, compiled: Path, tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = sorted(compiled.glob("*/compiled/*"))
    assert {file.name.partition("-")[0] for file in kept} == {"head", "transformer"}
    anew = load(tiny, without_compiled(compiled, tmp_path / "copy"), dtype=dtype, **SEVERAL)
    assert np.array_equal(vectors(load(tiny, compiled, dtype=dtype, **SEVERAL)), vectors(anew))
    assert sorted(compiled.glob("*/compiled/*")) == kept
    assert all(is_whole(file.parents[1]) for file in kept)
    assert "made anew" not in caplog.text


@pytest.mark.parametrize("damage", ["bit", "cut", "other"])
def test_a_damaged_compiled_graph_is_made_anew(
    tiny: Path, compiled: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = vectors(load(tiny, compiled, dtype="float32", **SEVERAL))
    cache = Path(shutil.copytree(compiled, tmp_path / "copy"))
    kept = {file: file.read_bytes() for file in cache.glob("*/compiled/*")}
    for file, data in kept.items():
        flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
        refused = hashlib.sha256(b"nothing").digest() + b"nothing"  # by OpenVINO; the digest is its own
        file.write_bytes({"bit": flipped, "cut": data[:20], "other": refused}[damage])
    again = load(tiny, cache, dtype="float32", **SEVERAL)
    assert np.array_equal(vectors(again), whole)
    mended = [file for file, data in kept.items() if len(file.read_bytes()) == len(data)]
    assert len(caplog.messages) == caplog.text.count("it is made anew") == 3
    assert len(mended) >= 3


def test_compiled_graphs_that_were_asked_for_longest_ago_are_not_kept(
    tiny: Path, compiled: Path, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(compiled, tmp_path / "copy"))
    (folder,) = {file.parent for file in cache.glob("*/compiled/*") if "int8" not in str(file)}
    own = set(folder.iterdir())
    others = [folder / f"other-{number:02}.blob" for number in range(MOST_KEPT)]
    for seconds, file in enumerate([*own, *others], 1):
        file.write_bytes(file.read_bytes() if file in own else b"of another processor")
        os.utime(file, (seconds, seconds))
    vectors(load(tiny, cache, dtype="float32", **SEVERAL))
    used = {file for file in own if file.stat().st_mtime > len(own) + len(others)}
    assert used
    vectors(load(tiny, cache, dtype="float32", **{**SEVERAL, "threads": 1}))
    made = set(folder.iterdir()) - own - set(others)
    assert made
    assert set(folder.iterdir()) == made | used | set(others[len(made | used) :])


def test_a_compiled_graph_that_no_disk_takes_is_compiled_each_time(tiny: Path, compiled: Path, tmp_path: Path) -> None:
    cache = without_compiled(compiled, tmp_path / "copy")
    for converted in cache.iterdir():
        if converted.is_dir():
            (converted / "compiled").write_bytes(b"a file where the folder should be")
            write_digests(converted)
    whole = vectors(load(tiny, compiled, dtype="float32", **SEVERAL))
    assert np.array_equal(vectors(load(tiny, cache, dtype="float32", **SEVERAL)), whole)
