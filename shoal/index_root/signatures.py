"""Signatures: who may publish, told apart from who may write to the index root.

A signature is an HMAC (SHA-256) with a key that builds and servers share and that does not lie in the root. A manifest
holds the checksums of all files of its version, so that its signature covers them. With a key, what is not signed is
refused, and CURRENT is signed too; without one nothing is signed, and no signature is looked at.
"""

import hmac
import os
import re
from pathlib import Path

from shoal.errors import CorruptIndex, InvalidArgument

KEY = "SHOAL_SIGNING_KEY"
"""Variable that holds the key; several lines hold several keys, of which the first signs and all are accepted."""
KEY_FILE = "SHOAL_SIGNING_KEY_FILE"
"""Variable that names a file of such lines."""
_LEAST_CHARACTERS = 32
"""Characters of a key, at least."""
_PREFIX = "hmac-sha256:"
"""How a signature begins: with the name of how it is made."""
_SIGNATURE = re.compile(rf"{_PREFIX}[0-9a-f]{{64}}")
"""What a signature looks like."""


def signing_keys() -> tuple[bytes, ...]:
    """The keys that this process was given, the one that signs first; none if nothing is signed here.

    Raises InvalidArgument for a file that cannot be read, or a key that is too short; it does not show the key.
    """
    text, source = os.environ.get("SHOAL_SIGNING_KEY", ""), KEY
    if name := os.environ.get("SHOAL_SIGNING_KEY_FILE", ""):
        path, source = Path(name).expanduser(), name
        try:
            text = f"{text}\n{path.read_text('utf-8')}"
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{KEY_FILE}: {path} cannot be read ({error}); correct it", param=KEY_FILE) from None
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if any(len(key) < _LEAST_CHARACTERS for key in keys) or (name and not keys):
        raise InvalidArgument(
            f"{source} should hold a key of {_LEAST_CHARACTERS} characters or more on each line; make one with "
            "`openssl rand -hex 32`",
            param=source,
        )
    return keys


def sign(purpose: str, data: bytes) -> str | None:
    """Sign data for a purpose, for which alone the signature holds. Returns None where there is no key."""
    keys = signing_keys()
    return _signature(keys[0], purpose, data) if keys else None


def check(purpose: str, data: bytes, signature: str | None, place: str) -> None:
    """Raise CorruptIndex, naming the place, unless data is signed with a key of this process, if it has any."""
    keys = signing_keys()
    if not keys:
        return
    remedy = "if you know who wrote it, `shoal index sign` signs it; otherwise activate another version"
    if signature is None:
        raise CorruptIndex(f"{place} is not signed, and this process accepts only what is ({KEY}): {remedy}")
    if not _SIGNATURE.fullmatch(signature) or not any(
        hmac.compare_digest(_signature(key, purpose, data), signature) for key in keys
    ):
        raise CorruptIndex(f"{place} is not signed with a key of this process ({KEY}): {remedy}")


def _signature(key: bytes, purpose: str, data: bytes) -> str:
    return _PREFIX + hmac.digest(key, f"shoal {purpose}\n".encode() + data, "sha256").hex()
