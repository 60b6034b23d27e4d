"""What stored token vectors take, and whether that is within what a build may spend on them."""

from shoal.fingerprint import Fingerprint
from shoal.indexes import gives_vectors
from shoal.late.codec import code_width
from shoal.settings import BuildSettings, LateSettings

TOKEN_TEXT_BYTES = 4.5
"""Bytes of text for each token whose vector is stored, about; English, by a tokeniser of word pieces."""


def token_bytes(late: LateSettings, fingerprint: Fingerprint, text_bytes: float) -> float:
    """Bytes of the stored token vectors of a passage of so many bytes, about."""
    return min(text_bytes / TOKEN_TEXT_BYTES, fingerprint.token_length) * code_width(late.late_dims, late.late_bits)


def token_dims(settings: BuildSettings, fingerprint: Fingerprint) -> int:
    """Dimensions that token vectors are reduced to: `late_dims`, or, if none is named, those that a multi-vector model
    has at most."""
    if fingerprint.late is None or "late_dims" in settings.model_fields_set:
        return settings.late_dims
    return min(settings.late_dims, fingerprint.late.dimensions // 8 * 8)


def resolved_late(
    settings: BuildSettings, kind: str, fingerprint: Fingerprint, token_width: int, sizes: tuple[int, float]
) -> LateSettings:
    """How token vectors are stored, with late_interaction=auto decided.

    Args:
        settings: Of the build.
        kind: Of the vector index: late interaction needs one that gives its vectors back.
        fingerprint: Of the encoder.
        token_width: Dimensions of its token vectors; 0 if none shall be stored.
        sizes: How many passages there are, and the mean bytes of a text.
    """
    late = settings.part(LateSettings, late_dims=token_dims(settings, fingerprint))
    if late.late_interaction != "auto":
        return late
    passages, text_bytes = sizes
    can = token_width >= late.late_dims and settings.vectors_field is None and gives_vectors(kind, fingerprint.dim)
    fits = passages * token_bytes(late, fingerprint, text_bytes) <= settings.late_gib * 2**30
    return late.model_copy(update={"late_interaction": "stored" if can and fits else "none"})
