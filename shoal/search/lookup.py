"""Passages by their ids, and lists of ids, out of all shards of a version; no ranking, no models."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice, takewhile

from shoal.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shoal.namespaces import DEFAULT, check_namespace, namespace_of, own_id, qualified
from shoal.records import FetchedPassages, FloatArray, ListedIds, Passage
from shoal.search.fanout import FanOut
from shoal.search.trace import describe


async def fetch_passages(
    fan_out: FanOut,
    ids: Sequence[str],
    deadline: float,
    with_vectors: bool,
    share_of: Callable[[float], float],
    namespace: str = DEFAULT,
    min_position: int = 0,
) -> FetchedPassages:
    """Fetch passages by their ids, in the order asked, each once.

    Ids that no shard has are missing. Where a shard did not answer, ids that were not found elsewhere may be in it:
    they are unknown.

    Args:
        fan_out: Of the version.
        ids: Of the passages.
        deadline: By the clock.
        with_vectors: Whether the vectors of the passages are wanted too.
        share_of: The part of the time until a deadline that one call to the shards may take.
        namespace: That the ids belong to.
        min_position: Of the log, which shards have to have seen.

    Raises:
        InvalidArgument: The index kind has no vectors to give, or these are no ids, or no namespace.
        DeadlineExceeded: No shard answered in time.
        Unavailable: No shard answered.
    """
    namespace, ids = check_namespace(namespace), list(dict.fromkeys(ids))
    inner = {id_: qualified(namespace, id_, "ids") for id_ in ids}
    refs, silent = await fan_out.locate(list(inner.values()), share_of(deadline), min_position)
    if len(silent) == fan_out.shards:
        raise silence("no shard answered", silent)
    fetched, lost = await fan_out.fetch_rows(refs.values(), share_of(deadline), with_vectors)
    passages: list[tuple[Passage, FloatArray | None]] = []
    missing: list[str] = []
    unknown: list[str] = []
    for id_ in ids:
        ref = refs.get(inner[id_])
        if ref is not None and ref in fetched:
            passage, vector = fetched[ref]
            passages.append((replace(passage, id=id_) if namespace else passage, vector))
        else:
            (unknown if ref is not None or silent else missing).append(id_)
    return FetchedPassages(
        index_version=fan_out.version.name,
        passages=passages,
        missing=missing,
        unknown=unknown,
        coverage=fan_out.coverage(silent | lost),
    )


async def list_ids(
    fan_out: FanOut,
    prefix: str,
    limit: int,
    cursor: str | None,
    deadline: float,
    namespace: str = DEFAULT,
    min_position: int = 0,
) -> ListedIds:
    """List ids in the order of their UTF-8 bytes, a page at a time.

    That order, and not one by digests, has all ids with one prefix together, so that a page of a rare prefix costs no
    more than any other. It depends neither on the version nor on the number of shards, so cursors outlive both.

    Args:
        fan_out: Of the version.
        prefix: What the ids begin with; "" for all.
        limit: Ids of one page.
        cursor: Where the page before ended; None for the first.
        deadline: By the clock.
        namespace: Whose ids are listed.
        min_position: Of the log, which shards have to have seen.

    Raises:
        InvalidArgument: This is no cursor, or no id begins with the prefix.
        DeadlineExceeded, Unavailable: A shard did not answer; a list without its ids would look whole.
    """
    namespace = check_namespace(namespace)
    after = None if cursor is None else qualified(namespace, read_cursor(cursor), "cursor")
    # One more from every shard tells whether there is a next page.
    own_prefix = qualified(namespace, prefix, "prefix")
    parts, missing = await fan_out.list_ids(own_prefix, after, limit + 1, deadline, min_position)
    if missing:
        raise silence("a list would lack ids", missing)
    # Behind the ids of the default namespace come those of all others.
    listed = takewhile(lambda id_: namespace_of(id_) == namespace, merge(*parts))
    ids = [own_id(id_) for id_ in islice(listed, limit + 1)]
    following = make_cursor(ids[limit - 1]) if len(ids) > limit else None
    return ListedIds(fan_out.version.name, ids[:limit], following)


def silence(what: str, missing: Mapping[int, str]) -> DeadlineExceeded | Unavailable:
    """Return what is raised where shards did not answer.

    Args:
        what: Went wrong by that.
        missing: Why shards are missing, by their numbers.
    """
    if set(missing.values()) <= {"deadline", "behind"}:  # asking again with as little time would end in the same way
        return DeadlineExceeded(f"{what} in time ({describe(missing)}); allow more time")
    return Unavailable(f"{what} ({describe(missing)}); try again", retry_after_s=1)


def make_cursor(last: str) -> str:
    """The cursor of the page that follows one whose last id is known."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """The last id of the page before. Raises InvalidArgument for what is no cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        raise InvalidArgument("cursor should be what `next` of the page before says", param="cursor") from None
