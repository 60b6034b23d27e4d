"""Passages by their ids, and lists of ids, out of all shards of a version; no ranking, no models."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from heapq import merge
from itertools import islice

from shoal.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shoal.records import FetchedPassages, FloatArray, ListedIds, Passage
from shoal.search.fanout import FanOut
from shoal.search.trace import describe


async def fetch_passages(
    fan_out: FanOut, ids: Sequence[str], deadline: float, with_vectors: bool, share_of: Callable[[float], float]
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

    Raises:
        InvalidArgument: The index kind has no vectors to give.
        DeadlineExceeded: No shard answered in time.
        Unavailable: No shard answered.
    """
    ids = list(dict.fromkeys(ids))
    refs, silent = await fan_out.locate(ids, share_of(deadline))
    if len(silent) == fan_out.shards:
        raise _silence("no shard answered", silent)
    fetched, lost = await fan_out.fetch_rows(refs.values(), share_of(deadline), with_vectors)
    passages: list[tuple[Passage, FloatArray | None]] = []
    missing: list[str] = []
    unknown: list[str] = []
    for id_ in ids:
        ref = refs.get(id_)
        if ref is not None and ref in fetched:
            passages.append(fetched[ref])
        else:
            (unknown if ref is not None or silent else missing).append(id_)
    return FetchedPassages(
        index_version=fan_out.version.name,
        passages=passages,
        missing=missing,
        unknown=unknown,
        coverage=fan_out.coverage(silent | lost),
    )


async def list_ids(fan_out: FanOut, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedIds:
    """List ids in the order of their UTF-8 bytes, a page at a time.

    That order, and not one by digests, has all ids with one prefix together, so that a page of a rare prefix costs no
    more than any other. It depends neither on the version nor on the number of shards, so cursors outlive both.

    Args:
        fan_out: Of the version.
        prefix: What the ids begin with; "" for all.
        limit: Ids of one page.
        cursor: Where the page before ended; None for the first.
        deadline: By the clock.

    Raises:
        InvalidArgument: This is no cursor.
        DeadlineExceeded, Unavailable: A shard did not answer; a list without its ids would look whole.
    """
    after = None if cursor is None else read_cursor(cursor)
    # One more from every shard tells whether there is a next page.
    parts, missing = await fan_out.list_ids(prefix, after, limit + 1, deadline)
    if missing:
        raise _silence("a list would lack ids", missing)
    ids = list(islice(merge(*parts), limit + 1))
    following = make_cursor(ids[limit - 1]) if len(ids) > limit else None
    return ListedIds(fan_out.version.name, ids[:limit], following)


def _silence(what: str, missing: Mapping[int, str]) -> DeadlineExceeded | Unavailable:
    if set(missing.values()) == {"deadline"}:  # asking again with as little time would end in the same way
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
