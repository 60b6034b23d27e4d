"""Token vectors in few bytes: the principal components, each rounded to a few bits.

A vector u is projected onto the first principal axes of the token vectors (through the origin: what counts is inner
products), brought to length 1, and each of its components rounded to one of 2^bits levels,

    level(c) = mean + step * (c - (2^bits - 1) / 2)

with the mean of the components along that axis and the step of least mean squared error for a Gaussian of their
variance (Max 1960, "Quantizing for Minimum Distortion"; for 256 levels, Hui & Neuhoff 2001, "Asymptotic Analysis of
Optimal Fixed-Rate Uniform Scalar Quantization"). The similarity of a query vector t and u is the cosine of t, projected
but not rounded, and these levels. Cosines within the subspace keep tokens that lie mostly outside it from counting
less: without them 64 axes of all-MiniLM-L6-v2 rank worse than stage one (`benchmarks.stored` tries the layouts).
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root.digests import reduction_bytes
from shoal.records import FloatArray

Codes = NDArray[np.uint8]

STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}
"""Distance of two levels by bits, for a variance of 1."""
_LEAST_DEVIATION = 1e-6
"""What is shorter, or varies less in the sample, counts as this much rather than being divided by zero."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Rounds token vectors. axes: float32 (dims, hidden), orthonormal; means, steps: float32 (dims,), of the levels."""

    axes: FloatArray
    means: FloatArray
    steps: FloatArray
    bits: int

    @property
    def digest(self) -> str:
        """SHA-256 of what it is serialised as: equal for what rounds alike."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def width(self) -> int:
        """Bytes of one token."""
        return code_width(len(self.axes), self.bits)

    @property
    def projection(self) -> FloatArray:
        """What a shard keeps of it, float32 (dims, hidden + 2): each axis, then mean and step of its levels."""
        return np.concatenate([self.axes, self.means[:, None], self.steps[:, None]], axis=1)

    def encode(self, tokens: NDArray[np.floating]) -> Codes:
        """Round vectors, float (t, hidden), to uint8 (t, width)."""
        levels = 1 << self.bits
        places = (project(tokens, self.axes) - self.means) / self.steps + levels / 2
        # What is not finite is rounded to something: the caller rejects the text by its vector.
        whole = np.nan_to_num(np.clip(np.floor(places), 0, levels - 1), copy=False)
        return pack(whole.astype(np.uint8), self.bits)

    @classmethod
    def from_projection(cls, projection: FloatArray, bits: int) -> "Codec":
        """The codec that a shard keeps this of."""
        axes = np.ascontiguousarray(projection[:, :-2])
        return cls(axes, projection[:, -2].copy(), projection[:, -1].copy(), bits)

    def to_bytes(self) -> bytes:
        """Serialise."""
        return reduction_bytes(self.projection, self.bits)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Codec":
        """Read what `to_bytes` wrote. Raises CorruptIndex."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["axes"], arrays["means"], arrays["steps"], int(arrays["bits"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptIndex(
                f"the reduction of token vectors in staging cannot be read ({error}); remove the build's staging folder"
            ) from error


def train(sample: NDArray[np.floating], dims: int, bits: int) -> Codec:
    """Learn the reduction to `dims` components from token vectors, float (n >= 1, hidden).

    Raises InvalidArgument when the vectors have fewer dimensions.
    """
    tokens = sample.astype(np.float64)
    if dims > tokens.shape[1]:
        raise InvalidArgument(
            f"late_dims={dims}, but the encoder's token vectors have {tokens.shape[1]} dimensions; give fewer",
            param="late_dims",
        )
    _, vectors = np.linalg.eigh(tokens.T @ tokens / len(tokens))
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :dims].T, np.float32)
    components = project(sample, axes)
    means = components.mean(axis=0)
    steps = np.float32(STEPS[bits]) * np.maximum(components.std(axis=0), np.float32(_LEAST_DEVIATION))
    return Codec(axes, means, steps, bits)


def project(tokens: NDArray[np.floating], axes: FloatArray) -> FloatArray:
    """Project vectors, float (t, hidden), onto axes, float32 (dims, hidden), to float32 (t, dims) of length 1."""
    components = tokens.astype(np.float32, copy=False) @ axes.T
    unit: FloatArray = components / np.maximum(np.linalg.norm(components, axis=1, keepdims=True), _LEAST_DEVIATION)
    return unit


def code_width(dims: int, bits: int) -> int:
    """Bytes of one token of `dims` codes."""
    return dims * bits // 8


def pack(codes: Codes, bits: int) -> Codes:
    """Put codes, uint8 (t, dims) below 2^bits, into bytes, uint8 (t, dims * bits / 8).

    Byte j holds code j in its lowest bits, above it code j + width, and so on: unpacking moves whole rows.
    """
    width = code_width(codes.shape[1], bits)
    packed = codes[:, :width].copy()
    for part in range(1, 8 // bits):
        packed |= codes[:, part * width : (part + 1) * width] << np.uint8(part * bits)
    return packed


def unpack(packed: Codes, bits: int) -> FloatArray:
    """Return what `pack` took, as float32 (t, dims), ready to be multiplied."""
    width, mask = packed.shape[1], np.uint8((1 << bits) - 1)
    codes = np.empty((len(packed), width * 8 // bits), np.float32)
    for part in range(8 // bits):
        codes[:, part * width : (part + 1) * width] = (packed >> np.uint8(part * bits)) & mask
    return codes


def levels_of(packed: Codes, projection: FloatArray, bits: int) -> FloatArray:
    """Return what codes, uint8 (t, width), stand for, float32 (t, dims); projection: that of the codec."""
    means, steps = projection[:, -2], projection[:, -1]
    levels = unpack(packed, bits)
    levels *= steps
    levels += means - steps * np.float32((1 << bits) / 2 - 0.5)
    return levels
