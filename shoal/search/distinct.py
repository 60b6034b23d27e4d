"""Groups of passages, and passages with equal texts: stage one looks deeper until it has enough different ones.

The shards tell what a passage is grouped by (`shoal.shard.row_keys`), so that no text travels for it.
"""

from collections.abc import Hashable, Iterable, Sequence

from shoal.errors import InvalidArgument
from shoal.filters import field_type
from shoal.metadata import FieldTypes
from shoal.namespaces import own_id
from shoal.records import DOCUMENT, AnswerShape, Candidate, GroupBy, GroupValue, RowRef
from shoal.search.facets import shown_value
from shoal.search.fanout import FanOut
from shoal.shard.row_keys import ReadKeys


def check_group(group_by: GroupBy | None, types: FieldTypes) -> None:
    """Check that passages can be grouped by a field. Raises InvalidArgument for none of the version, or a list."""
    if group_by is None or group_by.field == DOCUMENT:
        return
    if field_type(types, group_by.field, "group_by.field", "group by") == "list":
        raise InvalidArgument(
            f"group_by.field: {group_by.field} holds lists, and a passage belongs to one group; name a field with one "
            "value",
            param="group_by.field",
        )


class Distinct:
    """What the candidates of one search are grouped by, and which of them have equal texts.

    Args:
        fan_out: Of the version.
        shape: What was asked for: groups, different texts, or both.
    """

    def __init__(self, fan_out: FanOut, shape: AnswerShape) -> None:
        self._fan_out = fan_out
        self._group_by = shape.group_by
        self._collapse = shape.collapse
        self._groups: dict[RowRef, Hashable] = {}
        self._texts: dict[RowRef, bytes] = {}
        self._refs: dict[str, RowRef] = {}

    async def look_up(self, candidates: Sequence[Candidate], deadline: float) -> tuple[list[Candidate], dict[int, str]]:
        """Look up the keys of candidates, best first, until a deadline.

        Returns those that have them, of equal texts the first, and why shards are missing by shard number.
        """
        missing: dict[int, str] = {}
        field = self._group_by.field if self._group_by and self._group_by.field != DOCUMENT else None
        if field is not None or self._collapse:
            unknown: dict[int, list[int]] = {}
            for candidate in candidates:
                if candidate.ref not in self._groups:
                    unknown.setdefault(candidate.ref.shard, []).append(candidate.ref.row)
            questions = {shard: ReadKeys(rows, field, self._collapse) for shard, rows in unknown.items()}
            answers, missing = await self._fan_out.ask(questions, deadline)
            for shard, keys in answers.items():
                refs = [RowRef(shard, row) for row in unknown[shard]]
                values = keys.values or [None] * len(refs)
                # A passage without the field is a group of its own.
                self._groups |= {ref: ref if value is None else value for ref, value in zip(refs, values, strict=True)}
                self._texts |= dict(zip(refs, keys.texts or (), strict=False))
        if field is None and self._group_by is not None:
            self._groups |= {candidate.ref: document_of(own_id(candidate.id)) for candidate in candidates}
        self._refs |= {candidate.id: candidate.ref for candidate in candidates}
        known = [candidate for candidate in candidates if candidate.ref in self._groups]
        return (_first_of_each(known, self._texts) if self._collapse else known), missing

    def count(self, candidates: Iterable[Candidate]) -> int:
        """Count the groups of candidates, or these themselves if they are not grouped."""
        return len({self._groups[candidate.ref] if self._group_by else candidate.ref for candidate in candidates})

    def choose(self, candidates: Sequence[Candidate], groups: int, count: int) -> list[Candidate]:
        """Choose what the second stage reads: the best of each of the first groups, and then what comes first.

        Args:
            candidates: Best first.
            groups: How many of them at least have a candidate among the chosen.
            count: How many are chosen; more if there are more groups.
        """
        if self._group_by is None:
            return list(candidates[:count])
        heads: dict[Hashable, RowRef] = {}
        for candidate in candidates:
            heads.setdefault(self._groups[candidate.ref], candidate.ref)
        chosen = set(list(heads.values())[:groups])
        for candidate in candidates:
            if len(chosen) >= count:
                break
            chosen.add(candidate.ref)
        return [candidate for candidate in candidates if candidate.ref in chosen]

    def members(self, candidates: Sequence[Candidate], groups: int) -> list[Candidate]:
        """Keep what an answer without a second stage holds: the best of each of the first groups, group by group."""
        return [candidates[position] for position in self.group([candidate.id for candidate in candidates], groups)]

    def group(self, ids: Sequence[str], groups: int) -> list[int]:
        """Order passages by their groups: these by their best passage, and the best of each behind each other.

        Args:
            ids: Of the passages, best first.
            groups: How many are kept.

        Returns:
            Positions of those that are kept.
        """
        members: dict[Hashable, list[int]] = {}
        for position, id_ in enumerate(ids):
            members.setdefault(self._groups[self._refs[id_]], []).append(position)
        size = self._group_by.size if self._group_by else 1
        return [position for positions in list(members.values())[:groups] for position in positions[:size]]

    def value(self, id_: str) -> GroupValue:
        """Name the group of a passage as an answer does."""
        assert self._group_by is not None
        key = self._groups[self._refs[id_]]
        if isinstance(key, RowRef):
            return None
        if self._group_by.field == DOCUMENT:
            return str(key)
        kind = field_type(self._fan_out.version.fields, self._group_by.field, "group_by.field", "group by")
        return shown_value(key, kind)  # type: ignore[arg-type]  # what a column holds


def document_of(passage_id: str) -> str:
    """Name the document of a passage: what stands before the last `#`, behind which pieces of a text are numbered."""
    document, _, piece = passage_id.rpartition("#")
    return document if document and piece else passage_id


def _first_of_each(candidates: Sequence[Candidate], texts: dict[RowRef, bytes]) -> list[Candidate]:
    """Of candidates with one text the first."""
    first: dict[bytes, Candidate] = {}
    for candidate in candidates:
        first.setdefault(texts[candidate.ref], candidate)
    return list(first.values())
