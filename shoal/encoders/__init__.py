"""Encoders turn texts into vectors. One backend is one file here; the file name is the value of the `backend` setting.

A backend module defines `load(model: str, settings: EncoderSettings) -> Encoder`.
"""

from typing import TYPE_CHECKING, Protocol

from shoal.records import FloatArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.fingerprint import Fingerprint
    from shoal.settings import EncoderSettings


class Encoder(Protocol):
    """A bi-encoder. Not safe for concurrent calls; every owner has its own."""

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        ...

    def encode_queries(self, texts: "Sequence[str]") -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; the query prompt is applied here."""
        ...

    def encode_passages(self, texts: "Sequence[str]") -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; the passage prompt is applied here."""
        ...

    def fingerprint(self) -> "Fingerprint":
        """Name everything that decides which vector a text gets."""
        ...


def load_encoder(settings: "EncoderSettings") -> Encoder:
    """Load the encoder that the settings name.

    Raises ModelUnavailable when the model cannot be loaded, InvalidArgument when the backend does not exist.
    """
    raise NotImplementedError
