"""Documents as the shards of a version hold them by now, for whoever writes others in their place."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from shoal.errors import Conflict, DeadlineExceeded, Unavailable
from shoal.filters import Filter
from shoal.index_root.digests import document_digests
from shoal.search.fanout import FanOut
from shoal.search.shard_client import BEHIND_S
from shoal.search.trace import describe
from shoal.shard.document_questions import LookUpDocuments, SelectIds
from shoal.shard.questions import ShardQuestion
from shoal.shard.stored_documents import StoredDocument

DOCUMENTS_PER_CALL = 256
"""Documents that one call to a shard looks up; it returns their texts and vectors."""


class _Seen(Protocol):
    @property
    def position(self) -> int: ...


T = TypeVar("T", bound=_Seen)


async def look_up(
    fan_out: FanOut, documents: Sequence[str], min_position: int, deadline: float
) -> dict[str, StoredDocument]:
    """Return those documents that there are, of these record ids, as they are at a position of the log or later.

    Raises:
        Conflict: The version was built before documents could be written to an index; the remedy is named.
        Unavailable: A shard does not answer.
        DeadlineExceeded: It does not in time, or has not seen the position by then.
    """
    wanted = list(dict.fromkeys(documents))
    shards = (document_digests(wanted) % np.uint64(fan_out.shards)).tolist()
    parts: dict[int, list[str]] = {}
    for document, shard in zip(wanted, shards, strict=True):
        parts.setdefault(shard, []).append(document)
    found: dict[str, StoredDocument] = {}
    while parts:
        asked = {shard: tuple(part[:DOCUMENTS_PER_CALL]) for shard, part in parts.items()}
        questions = {shard: LookUpDocuments(part) for shard, part in asked.items()}
        answers = await _ask(fan_out, questions, min_position, deadline)
        for answer in answers.values():
            if answer.problem is not None:
                raise Conflict(answer.problem)
            found |= {stored.document: stored for stored in answer.documents if stored is not None}
        rest = {shard: part[DOCUMENTS_PER_CALL:] for shard, part in parts.items()}
        parts = {shard: part for shard, part in rest.items() if part}
    return found


async def select_ids(fan_out: FanOut, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
    """Return the ids of at most so many passages that fulfil a filter, at a position of the log or later.

    Raises what `look_up` raises, and InvalidArgument for a version without metadata.
    """
    questions = dict.fromkeys(range(fan_out.shards), SelectIds(tree, limit))
    answers = await _ask(fan_out, questions, min_position, deadline)
    return [id_ for _, answer in sorted(answers.items()) for id_ in answer.ids][:limit]


async def _ask(
    fan_out: FanOut, questions: Mapping[int, ShardQuestion[T]], min_position: int, deadline: float
) -> dict[int, T]:
    """Ask shards until all have seen a position."""
    answers: dict[int, T] = {}
    while True:
        waiting = {shard: question for shard, question in questions.items() if shard not in answers}
        found, missing = await fan_out.ask(waiting, deadline)
        if missing:
            late = set(missing.values()) == {"deadline"}
            what = f"documents cannot be looked up ({describe(missing)})"
            raise (
                DeadlineExceeded(f"{what}; allow more time")
                if late
                else Unavailable(f"{what}; try again", retry_after_s=1)
            )
        answers |= {shard: answer for shard, answer in found.items() if answer.position >= min_position}
        if len(answers) == len(questions):
            return answers
        if deadline - fan_out.clock() <= BEHIND_S:
            behind = dict.fromkeys(questions.keys() - answers.keys(), "behind")
            raise DeadlineExceeded(f"documents cannot be looked up ({describe(behind)}); allow more time")
        await asyncio.sleep(BEHIND_S)
