"""Converted models in the model cache that are no longer what was written there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.encoders import Encoder, load_encoder
from shoal.errors import ModelUnavailable
from shoal.inference.digests import is_whole, write_digests
from shoal.settings import EncoderSettings
from tests.support import tiny_models

ENCODABLE = ["red fish", "the heron of vitamin disease", ""]


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
