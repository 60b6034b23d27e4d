"""Entries of the log: small ones by hand, and any that hypothesis can think of."""

import string
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shoal.index_root.log_entry import DocumentWrite, LogEntry, LoggedRequest, RetiredState, WrittenPassage

NOTHING = RetiredState({}, 0, 0)
"""What a new document retires."""


def passage(name: str, text: str = "one two two", dim: int = 4, codes: bool = False) -> WrittenPassage:
    """A passage whose vector and codes follow from its text."""
    random = np.random.default_rng(list(text.encode()))
    terms = {term: text.split().count(term) for term in text.split()}
    tokens = random.integers(0, 256, (len(text.split()), 3), np.uint8) if codes else None
    vector = random.standard_normal(dim).astype(np.float32)
    return WrittenPassage(name, text, None, {"year": 2020}, vector, tokens, terms, len(text.split()))


def upsert(name: str, text: str = "one two two", retired: RetiredState = NOTHING) -> DocumentWrite:
    """A document of one passage."""
    return DocumentWrite(name, retired, (passage(name, text),))


def delete(name: str) -> DocumentWrite:
    """A document that is no more."""
    return DocumentWrite(name, RetiredState({"one": 1}, 3, 1), ())


def entry(
    position: int, documents: Sequence[DocumentWrite] = (), nonce: str = "nonce", keys: Sequence[str] = ()
) -> LogEntry:
    """An entry; each key is that of a request of all its documents."""
    requests = [LoggedRequest(key, f"digest of {key}", 0, len(documents), {"position": position}) for key in keys]
    return LogEntry(position, nonce, 1.5, "encoder", None, "analyzer", tuple(requests), tuple(documents))


def plain(value: Any) -> Any:
    """Whatever an entry is made of as plain values that compare as they are equal, to the bit."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def at(position: int, template: LogEntry) -> LogEntry:
    """The same entry at another position."""
    return replace(template, position=position)


_NAMES = st.text(max_size=8)
_TERMS = st.dictionaries(_NAMES, st.integers(0, 2**32 - 1), max_size=4)
_LENGTHS = st.integers(0, 2**32 - 1)
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_METADATA = st.none() | st.dictionaries(
    _NAMES, st.text(max_size=4) | st.integers() | _NUMBERS | st.booleans() | st.lists(_NAMES, max_size=2), max_size=3
)
_ANSWERS = st.dictionaries(st.text(string.ascii_lowercase, max_size=4), st.none() | st.integers() | _NAMES, max_size=3)


@st.composite
def passages(draw: st.DrawFn, dim: int, width: int | None) -> WrittenPassage:
    """Passages with vectors of any bits, and codes of this width, or none of it."""
    vector = np.frombuffer(draw(st.binary(min_size=4 * dim, max_size=4 * dim)), np.float32)
    codes = None
    if width is not None and draw(st.booleans()):
        tokens = draw(st.integers(0, 3))
        codes = np.frombuffer(draw(st.binary(min_size=tokens * width, max_size=tokens * width)), np.uint8)
        codes = codes.reshape(tokens, width)
    title, metadata = draw(st.none() | _NAMES), draw(_METADATA)
    return WrittenPassage(draw(_NAMES), draw(_NAMES), title, metadata, vector, codes, draw(_TERMS), draw(_LENGTHS))


@st.composite
def entries(draw: st.DrawFn) -> LogEntry:
    """Entries of up to four documents, with everything in them that may be there."""
    dim, width = draw(st.integers(1, 5)), draw(st.none() | st.integers(1, 3))
    written = st.builds(
        DocumentWrite,
        _NAMES,
        st.builds(RetiredState, _TERMS, _LENGTHS, _LENGTHS),
        st.lists(passages(dim, width), max_size=3).map(tuple),
    )
    documents = tuple(draw(st.lists(written, max_size=4)))
    requests = []
    for _ in range(draw(st.integers(0, 2))):
        first = draw(st.integers(0, len(documents)))
        count = draw(st.integers(0, len(documents) - first))
        requests.append(LoggedRequest(draw(st.none() | _NAMES), draw(_NAMES), first, count, draw(_ANSWERS)))
    names = st.none() | _NAMES
    return LogEntry(
        draw(st.integers(1, 2**63 - 1)), draw(_NAMES), draw(_NUMBERS), draw(_NAMES), draw(names), draw(names),
        tuple(requests), documents,
    )  # fmt: skip
