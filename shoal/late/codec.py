"""Token vectors in few bytes: the principal components, each rounded to a few bits.

A vector u becomes the codes c of (u - mean) . axis / step, one for each of the first `dims` principal axes, so that

    t . u  ~  t . mean + sum over axes k of (t . axis_k) * step_k * level(c_k)

for any query vector t, which is not rounded itself. An axis has 2^bits levels, equally far apart and symmetric about 0;
the step is the one of least mean squared error for a Gaussian of the axis' variance (Max 1960, "Quantizing for Minimum
Distortion"; for 256 levels, Hui & Neuhoff 2001, "Asymptotic Analysis of Optimal Fixed-Rate Uniform Scalar
Quantization").
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.records import FloatArray

Codes = NDArray[np.uint8]

STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}
"""Distance of two levels by bits, for a variance of 1."""
_LEAST_DEVIATION = 1e-6
"""What does not vary in the sample is rounded to this step rather than divided by zero."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Rounds token vectors. mean: float32 (hidden,); axes: float32 (dims, hidden); steps: float32 (dims,)."""

    mean: FloatArray
    axes: FloatArray
    steps: FloatArray
    bits: int

    @property
    def width(self) -> int:
        """Bytes of one token."""
        return code_width(len(self.axes), self.bits)

    @property
    def projection(self) -> FloatArray:
        """What query tokens are multiplied by, float32 (dims + 1, hidden): the mean, and the axes times their steps."""
        return np.concatenate([self.mean[None], self.axes * self.steps[:, None]])

    def encode(self, tokens: NDArray[np.floating]) -> Codes:
        """Round vectors, float (t, hidden), to uint8 (t, width)."""
        levels = 1 << self.bits
        places = ((tokens.astype(np.float32, copy=False) - self.mean) @ self.axes.T) / self.steps + levels / 2
        # What is not finite is rounded to something: the caller rejects the text by its vector.
        whole = np.nan_to_num(np.clip(np.floor(places), 0, levels - 1), copy=False)
        return pack(whole.astype(np.uint8), self.bits)

    def to_bytes(self) -> bytes:
        """Serialise."""
        file = io.BytesIO()
        np.savez(file, mean=self.mean, axes=self.axes, steps=self.steps, bits=np.int64(self.bits))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Codec":
        """Read what `to_bytes` wrote. Raises CorruptIndex."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["mean"], arrays["axes"], arrays["steps"], int(arrays["bits"]))
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
            f"late_dims={dims}, but the encoder's token vectors have {tokens.shape[1]} dimensions", param="late_dims"
        )
    mean = tokens.mean(axis=0)
    tokens -= mean
    variances, axes = np.linalg.eigh(tokens.T @ tokens / len(tokens))
    variances, axes = variances[::-1][:dims], axes[:, ::-1][:, :dims].T
    deviations = np.maximum(np.sqrt(np.maximum(variances, 0)), _LEAST_DEVIATION)
    mean32, axes32, steps32 = (
        np.ascontiguousarray(part, np.float32) for part in (mean, axes, STEPS[bits] * deviations)
    )
    return Codec(mean32, axes32, steps32, bits)


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
