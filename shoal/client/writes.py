"""Writes of any number of passages: cut into requests of a size that a server takes, each with a key of its own."""

import base64
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict, TypeVar

from shoal.errors import InvalidArgument

BATCH_PASSAGES = 100
"""Passages of one request, at most, unless the caller says otherwise: two seconds of encoding on a small server."""
BATCH_BYTES = 4 * 2**20
"""Bytes of one request, at most, unless one passage alone has more."""
WriteProgress = Callable[[int], None]
"""Hears, after each request, how many passages are done."""


class GivenPassage(TypedDict, total=False):
    """A passage to write; `id` is needed, and a text, a title or a vector."""

    id: str
    text: str | None
    title: str | None
    metadata: Mapping[str, Any] | None
    vector: Any
    """A list or an array of numbers."""


class GivenUpdate(TypedDict, total=False):
    """Other metadata for a passage; `id` and `metadata` are needed."""

    id: str
    metadata: Mapping[str, Any]
    merge: bool
    """Whether fields that are not named stay; by default they do."""


@dataclass(frozen=True, slots=True)
class WriteSummary:
    """What all requests of an upsert did. position: with which searches see all of it."""

    position: int = 0
    written: int = 0
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class DeleteSummary:
    """What all requests of a deletion did. position: with which searches see all of it."""

    position: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class UpdateSummary:
    """What all requests of an update did. missing: ids that there are no passages of."""

    position: int = 0
    updated: int = 0
    unchanged: int = 0
    missing: list[str] = field(default_factory=list)


S = TypeVar("S", WriteSummary, DeleteSummary, UpdateSummary)


@dataclass(frozen=True, slots=True)
class WriteCall:
    """One request: its path, its body, its Idempotency-Key, and how many passages are done with it."""

    path: str
    body: dict[str, Any]
    key: str
    size: int


def upsert_calls(
    passages: Iterable[Mapping[str, Any]], batch_passages: int, batch_bytes: int, namespace: str = ""
) -> Iterator[WriteCall]:
    """Cut passages into requests; no request holds one id twice, so that the order among them stays."""
    for batch in _batches(map(_sent, passages), batch_passages, batch_bytes):
        yield WriteCall("/v1/passages", {"passages": batch, **_in(namespace)}, new_key(), len(batch))


def update_calls(updates: Iterable[Mapping[str, Any]], batch_passages: int, namespace: str = "") -> Iterator[WriteCall]:
    """Cut updates into requests, as `upsert_calls` does."""
    for batch in _batches(map(dict, updates), batch_passages, BATCH_BYTES):
        yield WriteCall("/v1/passages/update", {"updates": batch, **_in(namespace)}, new_key(), len(batch))


def delete_calls(ids: Iterable[str], batch_passages: int, namespace: str = "") -> Iterator[WriteCall]:
    """Cut ids into requests."""
    for batch in _batches(({"id": id_} for id_ in ids), batch_passages, BATCH_BYTES):
        body = {"ids": [item["id"] for item in batch], **_in(namespace)}
        yield WriteCall("/v1/passages/delete", body, new_key(), len(batch))


def selection_call(filter: Mapping[str, Any] | None, namespace: str = "") -> WriteCall:
    """The request that deletes what fulfils a filter, or everything of the namespace where that is None."""
    body: dict[str, Any] = {"all": True} if filter is None else {"filter": filter}
    return WriteCall("/v1/passages/delete", {**body, **_in(namespace)}, new_key(), 0)


def check_selection(ids: object, filter: object, everything: bool) -> None:
    """Raise InvalidArgument unless a deletion says in one way what it deletes."""
    if isinstance(ids, str):
        raise InvalidArgument("ids should be several ids, not one string", param="ids")
    if (ids is not None) + (filter is not None) + everything != 1:
        raise InvalidArgument("a deletion needs one of ids, filter and all", param="ids")


def new_key() -> str:
    """An Idempotency-Key that no other request has."""
    return uuid.uuid4().hex


def _in(namespace: str) -> dict[str, str]:
    """The field of a namespace that is not the default one: servers of before December 2026 know none."""
    return {"namespace": namespace} if namespace else {}


def _batches(items: Iterable[dict[str, Any]], most: int, most_bytes: int) -> Iterator[list[dict[str, Any]]]:
    if most < 1:
        raise InvalidArgument(f"batch_passages should be at least 1, not {most}", param="batch_passages")
    batch: list[dict[str, Any]] = []
    ids: set[Any] = set()
    size = 0
    for item in items:
        length, id_ = _length(item), str(item.get("id"))
        if batch and (len(batch) == most or size + length > most_bytes or id_ in ids):
            yield batch
            batch, ids, size = [], set(), 0
        batch.append(item)
        ids.add(id_)
        size += length
    if batch:
        yield batch


def _sent(passage: Mapping[str, Any]) -> dict[str, Any]:
    """A passage as it travels: an array as base64, which takes a third of the bytes of a list."""
    sent = dict(passage)
    vector = sent.get("vector")
    if vector is not None and hasattr(vector, "astype"):  # of NumPy, which a client does without
        sent["vector"] = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return sent


def _length(item: Mapping[str, Any]) -> int:
    """Bytes of an item, about."""
    vector = item.get("vector")
    size = 20 * len(vector) if isinstance(vector, list) else len(vector or "")
    rest = {name: value for name, value in item.items() if name != "vector"}
    return size + len(json.dumps(rest, default=str))


def joined(summary: S, answer: Mapping[str, Any]) -> S:
    """Add the answer of a request to what those before it did. Raises TypeError for one that is none."""
    values: dict[str, Any] = {}
    for part in fields(summary):
        before, now = getattr(summary, part.name), answer.get(part.name, [] if part.name == "missing" else 0)
        values[part.name] = max(before, now) if part.name == "position" else before + now
    return replace(summary, **values)
