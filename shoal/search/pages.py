"""The next page of an answer: a cursor says behind which score and id it begins, of which query of which version."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

import numpy as np

from shoal.errors import InvalidArgument
from shoal.filters import Value
from shoal.metadata import FieldTypes
from shoal.namespaces import check_namespace, own_id, qualified
from shoal.records import ID, AnswerShape, Candidate, Result, SearchRequest

_DIGEST_BYTES = 12
"""Bytes of the digest of a request in a cursor: it tells mistakes, and keeps no secret."""
_RANKING_FIELDS = tuple(
    field.name
    for field in fields(SearchRequest)
    if field.name not in ("top_k", "top_n", "deadline", "include_vector", "explain", "mode", "shape")
)
"""Fields of a request that decide its ranking, beside its mode and parts of its shape."""
_KEY_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "timestamp": (int,),
}
"""What a cursor holds of a field of each type; a shard can compare nothing else with its values."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended. key: the score there, or the value that results are put by. count: results of all pages."""

    version: str
    request: str
    key: Value | None
    id: str
    count: int

    def is_before(self, candidate: Candidate) -> bool:
        """Whether a candidate stands on a later page."""
        assert isinstance(self.key, float)
        return (-candidate.score, candidate.id) > (-self.key, self.id)

    def write(self) -> str:
        """Return the cursor as a client gets it."""
        parts = [self.version, self.request, self.key, self.id, self.count]
        text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Read what a client sends. Raises InvalidArgument for what is no cursor."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            version, request, key, id_, count = parts
            kinds = [type(part) for part in (version, request, id_, count)] == [str, str, str, int]
            for part in (key, id_):
                str(part).encode()  # a lone surrogate is no text that a shard could compare
            if not kinds or count < 1 or isinstance(key, list | dict) or (isinstance(key, float) and not isfinite(key)):
                raise ValueError
        except (ValueError, TypeError, binascii.Error, RecursionError):
            raise _no_cursor() from None
        return cls(version, request, key, id_, count)


def _no_cursor() -> InvalidArgument:
    return InvalidArgument("after should be what `next` of the page before says", param="after")


def read_cursor(
    request: SearchRequest, version: str, mode: str, types: FieldTypes, *, is_reranked: bool
) -> Cursor | None:
    """Read the cursor of a request that has one. types: of the metadata fields.

    Raises InvalidArgument for one of another request or version, and where what is asked has no pages.
    """
    shape = request.shape
    if shape.after is None:
        return None
    if is_reranked:
        raise InvalidArgument("after goes on in stage-one order; add rerank: false to the request", param="after")
    if shape.group_by or shape.diversity:
        other = "group_by" if shape.group_by else "diversity"
        raise InvalidArgument(f"an answer with {other} has no pages; leave it or after out", param="after")
    cursor = Cursor.read(shape.after)
    if cursor.version != version and not _is_by_id(shape):
        raise InvalidArgument(
            f"after belongs to version {cursor.version[:64]!r}, and {version} is served by now; ask for the first page "
            "again",
            param="after",
        )
    if cursor.request != digest_of(request, mode):
        raise InvalidArgument(
            "after belongs to another request; only top_n may differ from page to page", param="after"
        )
    if _is_by_id(shape):
        if cursor.key is not None:
            raise _no_cursor()
    elif not _is_key(cursor.key, None if shape.order_by is None else types[shape.order_by.field]):
        raise _no_cursor()
    return replace(cursor, id=qualified(check_namespace(request.namespace), cursor.id, "after"))


def _is_by_id(shape: AnswerShape) -> bool:
    """Whether passages are put by their ids, which stand in the same order in every version."""
    return shape.order_by is not None and shape.order_by.field == ID


def _is_key(key: Value | None, kind: str | None) -> bool:
    """Whether passages can be put by it: a score, or of a field of a type its value, None for those without one."""
    if kind is None:
        return isinstance(key, float)
    return key is None or type(key) in _KEY_TYPES[kind]


def next_cursor(
    request: SearchRequest,
    version: str,
    mode: str,
    before: Cursor | None,
    results: Sequence[Result],
    last_place: int,
    order_values: Mapping[str, Value | None] | None,
) -> str | None:
    """Return the cursor of the page behind these results; None behind a page that is not full, and the last one.

    Args:
        request: What was asked for.
        version: That answered.
        mode: How stage one searched.
        before: The cursor that this page began with.
        results: Of this page.
        last_place: Up to which place of the ranking there are pages.
        order_values: The values that passages are put by, by their ids; None if they are put by their scores.
    """
    count = (before.count if before else 0) + len(results)
    if len(results) < request.top_n or count >= last_place:
        return None
    last = results[-1]
    key = last.retrieval_score if order_values is None else order_values[last.id]
    return Cursor(version, digest_of(request, mode), key, own_id(last.id), count).write()


def digest_of(request: SearchRequest, mode: str) -> str:
    """Name what decides the ranking of a request, so that a cursor goes on in the same one."""
    shape = request.shape
    parts = [getattr(request, name) for name in _RANKING_FIELDS]
    text = _ENCODER.encode([mode, shape.collapse, shape.min_score, shape.order_by, *parts])
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _plain(value: Any) -> str:
    return hashlib.blake2b(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else repr(value)


_ENCODER = json.JSONEncoder(sort_keys=True, default=_plain)
"""Writes what decides a ranking, so that equal requests give equal digests."""
