"""What may be written to a version: records are checked, and their texts cut, as the build of the version did it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import InvalidArgument
from shoal.index_root.manifest import TEXT_FIELD, Manifest
from shoal.metadata import FieldTypes, convert, declared_types
from shoal.namespaces import DEFAULT, own_id, qualified
from shoal.records import FloatArray, Metadata, MetadataValue, Passage
from shoal.settings import SourceSettings
from shoal.shard.live_fields import widened
from shoal.sources.fields import BadRecord, FieldMapping
from shoal.sources.pieces import PassageCutter
from shoal.writing.requests import Condition, MetadataUpdate, PassageWrite

MOST_PROBLEMS = 100
"""Records that a message names, of those that are wrong."""
_NAMED_CHARACTERS = 64
"""Characters of an id that a message repeats."""


@dataclass(frozen=True, slots=True, eq=False)
class CheckedRecord:
    """A record that may be written.

    passages: it, or the pieces of it. vector: float32 (dim,), L2-normalised, if it brings one; then it is one passage.
    """

    document: str
    passages: list[Passage]
    vector: FloatArray | None
    condition: Condition | None


class RecordChecks:
    """Checks records against a version. Not for several threads at once.

    Args:
        manifest: Of the version.
    """

    def __init__(self, manifest: Manifest) -> None:
        build = manifest.build
        known = {name: build[name] for name in SourceSettings.model_fields if name in build}
        given = {"source": "-", **known, "id_field": "id", "text_field": "text", "title_field": "title"}
        source = SourceSettings.model_validate({**given, "metadata_fields": None, "vectors_field": None})
        kept = source.model_copy(update={"metadata_fields": known.get("metadata_fields")})
        self._cutter = PassageCutter(kept) if source.chunk_characters is not None else None
        # What is no JSON here is none of a file's.
        source = source.model_copy(update={"format": "jsonl", "metadata_types": None})
        self._dim = manifest.dim
        self._text_field = manifest.text_field
        self._mapping = FieldMapping(source, manifest.dim, limit_text=self._cutter is None)
        self._declared = declared_types(build.get("metadata_types"))
        self._separator = source.list_separator

    def document_of(self, passage_id: str) -> str:
        """Return the id of the record that a passage belongs to."""
        return passage_id if self._cutter is None else passage_id.rpartition("#")[0]

    def check_passages(
        self, passages: Sequence[PassageWrite], fields: FieldTypes, namespace: str = DEFAULT
    ) -> list[CheckedRecord]:
        """Check records, and cut them. Raises InvalidArgument that names every one at fault, up to MOST_PROBLEMS.

        Args:
            fields: Types of the metadata fields of the index as it is.
            namespace: That they are written to; their ids are those inside of the index then.
        """
        problems = Problems("passages")
        checked: list[CheckedRecord] = []
        for number, passage in enumerate(passages):
            try:
                record = self._checked(passage, namespace)
                fields = widened(fields, record.passages[0].metadata)
                checked.append(record)
            except BadRecord as bad:
                problems.add(number, passage.id, bad.reason)
            except InvalidArgument as misfit:
                problems.add(number, passage.id, misfit.message)
        problems.add_repeated([passage.id for passage in passages])
        problems.raise_any()
        return checked

    def check_updates(self, updates: Sequence[MetadataUpdate]) -> None:
        """Check what updates bring, by itself. Raises InvalidArgument as `check_passages`."""
        problems = Problems("updates")
        for number, update in enumerate(updates):
            try:
                self._check_no_text(update.metadata)
                self.checked_metadata({name: value for name, value in update.metadata.items() if value is not None})
                self.checked_vector(update.vector)
            except BadRecord as bad:
                problems.add(number, update.id, bad.reason)
        problems.add_repeated([update.id for update in updates])
        problems.raise_any()

    def checked_metadata(self, metadata: Mapping[str, Any]) -> Metadata:
        """Return metadata as they are stored. Raises BadRecord."""
        return self._converted(self._passage(PassageWrite("id", "text", metadata=metadata)).metadata)

    def checked_vector(self, vector: Sequence[float] | FloatArray | None) -> FloatArray | None:
        """Return a vector as the index compares it, float32 (dim,) of length 1; None for none. Raises BadRecord."""
        return None if vector is None else normalised(vector, self._dim)

    def _checked(self, write: PassageWrite, namespace: str) -> CheckedRecord:
        passage = self._passage(write)
        vector = self.checked_vector(write.vector)
        metadata = self._converted(passage.metadata)
        passage = Passage(qualified(namespace, passage.id), passage.text, passage.title, metadata)
        if self._cutter is None:
            return CheckedRecord(passage.id, [passage], vector, write.condition)
        pieces = self._cutter.cut(passage)
        if vector is not None:
            check_uncut(pieces)
        return CheckedRecord(passage.id, pieces, vector, write.condition)

    def _passage(self, write: PassageWrite) -> Passage:
        """Read a record with the rules for those of files. Raises BadRecord, also for what is left out of those."""
        text, metadata = write.text, dict(write.metadata or {})
        may_hold = write.text_in_metadata or self._text_field != TEXT_FIELD
        if may_hold and _is_blank(text) and _holds_text(metadata.get(self._text_field)):
            text = metadata.pop(self._text_field)
        record: dict[str, Any] = {"id": write.id, "text": text, "title": write.title, "metadata": metadata}
        needs_no_text = write.vector is not None and _is_blank(text)
        if text is None and not needs_no_text and write.title is None and self._text_field != TEXT_FIELD:
            raise BadRecord(f"it has no text, nor one in the field {self._text_field[:_NAMED_CHARACTERS]!a}")
        if needs_no_text:
            record["text"] = "."  # the rules ask for one
        self._mapping.left_out.clear()
        passage = self._mapping.passage(record)
        if self._mapping.left_out:
            raise BadRecord(
                f"the metadata field {next(iter(self._mapping.left_out))}; a value must be a string, a finite number, "
                "a boolean or a list of strings"
            )
        return Passage(passage.id, "", passage.title, passage.metadata) if needs_no_text else passage

    def _check_no_text(self, metadata: Mapping[str, Any]) -> None:
        """Raise BadRecord for metadata that would be a text: another text has another vector."""
        if self._text_field != TEXT_FIELD and _holds_text(metadata.get(self._text_field)):
            raise BadRecord(
                f"the field {self._text_field[:_NAMED_CHARACTERS]!a} holds the text, which is no metadata; write the "
                "record again with another text"
            )

    def _converted(self, metadata: Metadata) -> Metadata:
        """Return metadata with the types that the build was told of, as it converts them. Raises BadRecord."""
        fitting: dict[str, MetadataValue] = {}
        for name, value in metadata.items():
            kind = self._declared.get(name)
            converted = value if kind is None else convert(value, kind, self._separator)
            if converted is None:
                raise BadRecord(
                    f"the metadata field {name[:_NAMED_CHARACTERS]!a} is {_shown(value)}, which is no {kind}"
                )
            fitting[name] = converted
        return fitting


class Problems:
    """What is wrong with the records of a request. field: of the request, that holds them."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._problems: list[tuple[int, str]] = []

    def add(self, number: int, id_: str, reason: str) -> None:
        """Note a record by its place."""
        id_ = own_id(id_)
        shown = ascii(id_) if len(id_) <= _NAMED_CHARACTERS else ascii(id_[:_NAMED_CHARACTERS]) + "..."
        self._problems.append((number, f"{self._field}[{number}] (id {shown}): {reason}"))

    def add_repeated(self, ids: Sequence[str]) -> None:
        """Note every record whose id another one before it has."""
        first: dict[str, int] = {}
        for number, id_ in enumerate(ids):
            if first.setdefault(id_, number) != number:
                self.add(number, id_, f"the id is that of {self._field}[{first[id_]}] too")

    def __iter__(self) -> Iterator[str]:
        """Give what is wrong, record by record."""
        return (problem for _, problem in sorted(self._problems))

    def __len__(self) -> int:
        return len(self._problems)

    def __str__(self) -> str:
        more = len(self) - MOST_PROBLEMS
        return "; ".join(list(self)[:MOST_PROBLEMS]) + (f"; and {more:,} more" if more > 0 else "")

    @property
    def param(self) -> str | None:
        """The first record at fault."""
        return f"{self._field}[{min(self._problems)[0]}]" if self._problems else None

    def raise_any(self) -> None:
        """Raise InvalidArgument if anything is wrong."""
        if self._problems:
            raise InvalidArgument(f"nothing was written: {self}", param=self.param)


def check_uncut(pieces: Sequence[Passage]) -> None:
    """Raise BadRecord where a record with a vector of its own is several passages."""
    if len(pieces) > 1:
        raise BadRecord(f"the text is cut into {len(pieces)} passages, which one vector cannot stand for")


def normalised(vector: Sequence[float] | FloatArray, dim: int) -> FloatArray:
    """Return a vector as the index compares it, float32 (dim,) of length 1. Raises BadRecord for one that has none."""
    try:
        numbers = np.asarray(vector, np.float64)  # squares of large numbers are beyond float32
    except (ValueError, TypeError, OverflowError):
        raise BadRecord("the vector must be a list of numbers") from None
    if numbers.shape != (dim,):
        count = f"{len(numbers):,} numbers" if numbers.ndim == 1 else f"the shape {numbers.shape}"
        raise BadRecord(f"the vector has {count}, those of the index have {dim:,}")
    length = float(np.linalg.norm(numbers))
    if not 0 < length < math.inf:
        raise BadRecord("the vector is zero or holds a number that is not finite")
    unit: FloatArray = (numbers / length).astype(np.float32)
    return unit


def _is_blank(text: str | None) -> bool:
    return text is None or not text or text.isspace()


def _holds_text(value: object) -> bool:
    """Whether what stands in the field of the text is one."""
    return isinstance(value, str) and not _is_blank(value)


def _shown(value: MetadataValue) -> str:
    shown = ascii(value)
    return shown if len(shown) <= _NAMED_CHARACTERS else f"{shown[:_NAMED_CHARACTERS]}..."
