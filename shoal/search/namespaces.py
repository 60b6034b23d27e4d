"""The namespaces of a version and how many passages each has, out of all of its shards."""

from collections import Counter

from shoal.namespaces import check_namespace
from shoal.records import ListedNamespaces, NamespaceSize
from shoal.search.fanout import FanOut
from shoal.search.lookup import make_cursor, read_cursor, silence
from shoal.shard.namespace_questions import CountNamespace, CountNamespaces


async def list_namespaces(
    fan_out: FanOut, prefix: str, limit: int, cursor: str | None, deadline: float
) -> ListedNamespaces:
    """List the namespaces that have passages, by name, a page at a time; the default one, whose name is empty, first.

    Args:
        fan_out: Of the version.
        prefix: What the names begin with; "" for all.
        limit: Names of one page.
        cursor: Where the page before ended; None for the first.
        deadline: By the clock.

    Raises:
        InvalidArgument: This is no cursor.
        DeadlineExceeded, Unavailable: A shard did not answer; counts without its passages would look whole.
    """
    after = None if cursor is None else read_cursor(cursor)
    # One more from every shard tells whether there is a next page, and no name of this one is beyond what each sends.
    answers, missing = await fan_out.ask_all(CountNamespaces(prefix, after, limit + 1), deadline)
    if missing:
        raise silence("counts would lack passages", missing)
    counts: Counter[str] = Counter()
    for answer in answers.values():
        counts.update(dict(answer))
    names = sorted(counts)[: limit + 1]
    following = make_cursor(names[limit - 1]) if len(names) > limit else None
    return ListedNamespaces(
        fan_out.version.name, [NamespaceSize(name, counts[name]) for name in names[:limit]], following
    )


async def count_namespace(fan_out: FanOut, namespace: str, deadline: float) -> int:
    """Count the passages of a namespace. Raises as `list_namespaces`."""
    answers, missing = await fan_out.ask_all(CountNamespace(check_namespace(namespace)), deadline)
    if missing:
        raise silence("a count would lack passages", missing)
    return sum(answers.values())
