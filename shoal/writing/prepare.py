"""From a request to documents as the log shall hold them: checked, looked up, encoded, and cut into terms."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from shoal.filters import Filter
from shoal.index_root.log import clock
from shoal.index_root.log_entry import WrittenPassage
from shoal.late.codec import Codes
from shoal.lexical.analyzer import Analyzer
from shoal.metadata import FieldTypes
from shoal.namespaces import check_namespace, qualified
from shoal.records import FloatArray, Passage
from shoal.shard.stored_documents import StoredDocument, StoredPassage
from shoal.sources.fields import BadRecord
from shoal.system.threads import Threads
from shoal.writing.checks import CheckedRecord, Problems, RecordChecks, check_uncut
from shoal.writing.draft import Basis, Change, PreparedRequest
from shoal.writing.encoding import PassageEncoder
from shoal.writing.requests import Deleted, DeleteRequest, MetadataUpdate, Updated, UpdateRequest, WriteRequest, Written
from shoal.writing.states import RecentWrites, WritableVersion

MOST_SELECTED = 10_000
"""Passages that one deletion by a filter takes in."""


class Preparation:
    """Prepares requests for one version. Belongs to one event loop.

    Args:
        version: That the passages are made for.
        encoder: Of passages.
        recent: What shards may lack.
        thread: One thread, for checking records and counting terms.
        fields: Gives the types of the metadata fields of the index as it is.
    """

    def __init__(
        self,
        version: WritableVersion,
        encoder: PassageEncoder,
        recent: RecentWrites,
        thread: Threads,
        fields: Callable[[], FieldTypes],
    ) -> None:
        self.version = version
        self.basis = basis_of(version)
        self._encoder = encoder
        self._recent = recent
        self._thread = thread
        self._fields = fields
        self._checks = RecordChecks(version.manifest)
        lexical = version.manifest.lexical
        self._analyzer = None if lexical is None else Analyzer(lexical.settings)

    async def write(self, request: WriteRequest, position: int) -> PreparedRequest:
        """Prepare records to be written. Raises InvalidArgument that names every one at fault.

        Args:
            position: Of the log, at or after which their earlier states are looked up.
        """
        deadline, namespace = request.deadline, check_namespace(request.namespace)
        records = await self._thread.run(
            deadline, self._checks.check_passages, request.passages, self._fields(), namespace
        )
        states = await self._states([record.document for record in records], position, deadline)
        passages = await self._passages(records, states, deadline)
        changes = [
            Change(record.document, made, record.condition) for record, made in zip(records, passages, strict=True)
        ]
        return self._prepared(request, changes, states, Written)

    async def delete(self, request: DeleteRequest, position: int) -> PreparedRequest:
        """Prepare the deletion of records by their ids; ids that there are none of are nothing to it."""
        namespace = check_namespace(request.namespace)
        ids = [qualified(namespace, id_, "ids") for id_ in dict.fromkeys(request.ids or ())]
        states = await self._states(ids, position, request.deadline)
        return self._prepared(request, [Change(id_, ()) for id_ in ids], states, Deleted, field="ids")

    async def delete_selected(self, request: DeleteRequest, tree: Filter | None, position: int) -> PreparedRequest:
        """Prepare the deletion of what fulfils a filter at a position: so many as one deletion takes in."""
        selected = await self.version.select(tree, MOST_SELECTED + 1, position, request.deadline)
        documents = list(dict.fromkeys(map(self._checks.document_of, selected[:MOST_SELECTED])))
        states = await self._states(documents, position, request.deadline)
        # What was written since then may not fulfil the filter any more.
        settled = {name: state for name, state in states.items() if state.passages and state.position <= position}
        more = len(selected) > MOST_SELECTED or any(state.position > position for state in states.values())
        changes = [Change(name, (), read_at=state.position) for name, state in settled.items()]
        return self._prepared(request, changes, settled, Deleted, field="filter", more=more)

    async def update(self, request: UpdateRequest, position: int) -> PreparedRequest:
        """Prepare other metadata or vectors for records, which are read as they are at a position or later."""
        deadline, namespace = request.deadline, check_namespace(request.namespace)
        updates = [replace(update, id=qualified(namespace, update.id, "updates")) for update in request.updates]
        await self._thread.run(deadline, self._checks.check_updates, updates)
        states = await self._states([update.id for update in updates], position, deadline)
        there = {name: state for name, state in states.items() if state.passages}
        records = self._updated(updates, there)
        passages = await self._passages(records, there, deadline)
        changes = [
            Change(record.document, made, read_at=there[record.document].position)
            for record, made in zip(records, passages, strict=True)
        ]
        missing = [update.id for update in updates if update.id not in there]
        return self._prepared(request, changes, there, Updated, field="updates", missing=missing)

    def _prepared(
        self,
        request: WriteRequest | DeleteRequest | UpdateRequest,
        changes: Sequence[Change],
        states: Mapping[str, StoredDocument],
        answer: type[Written] | type[Deleted] | type[Updated],
        **details: object,
    ) -> PreparedRequest:
        return PreparedRequest(
            changes=changes,
            states=states,
            answer=answer,
            basis=self.basis,
            key=request.log_key,
            body_digest=request.body_digest,
            expires=clock() + request.deadline - time.monotonic(),
            **details,  # type: ignore[arg-type]
        )

    async def _states(self, documents: Sequence[str], position: int, deadline: float) -> dict[str, StoredDocument]:
        stored = await self.version.look_up(documents, position, deadline) if documents else {}
        return self._recent.overlay(documents, stored)

    def _updated(self, updates: Sequence[MetadataUpdate], states: Mapping[str, StoredDocument]) -> list[CheckedRecord]:
        """The records that there are, with what is new of them. Raises InvalidArgument that names those at fault."""
        problems = Problems("updates")
        records: list[CheckedRecord] = []
        for number, update in enumerate(updates):
            if update.id not in states:
                continue
            try:
                passages = [self._with_metadata(stored.passage, update) for stored in states[update.id].passages]
                vector = self._checks.checked_vector(update.vector)
                if vector is not None:
                    check_uncut(passages)
                records.append(CheckedRecord(update.id, passages, vector, None))
            except BadRecord as bad:
                problems.add(number, update.id, bad.reason)
        problems.raise_any()
        return records

    def _with_metadata(self, passage: Passage, update: MetadataUpdate) -> Passage:
        merged = {**passage.metadata, **update.metadata} if update.merge else dict(update.metadata)
        changed = {name: value for name, value in merged.items() if value is not None}
        return Passage(passage.id, passage.text, passage.title, self._checks.checked_metadata(changed))

    async def _passages(
        self, records: Sequence[CheckedRecord], states: Mapping[str, StoredDocument], deadline: float
    ) -> list[tuple[WrittenPassage, ...]]:
        """Make what a shard shall hold of records: what has not changed is copied from their earlier states."""
        sources = [
            _Source(passage, record.vector, _stored(passage, states.get(record.document)))
            for record in records
            for passage in record.passages
        ]
        codec = self.version.codec
        lacking = [source for source in sources if source.lacks_vector or (codec is not None and source.codes is None)]
        if lacking:
            texts = [source.passage.content for source in lacking]
            vectors, codes = await self._encoder.encode(texts, codec, deadline)
            for source, vector, tokens in zip(lacking, vectors, codes, strict=True):
                source.encoded, source.codes = vector, tokens
        made = iter(await self._thread.run(deadline, lambda: [self._passage(source) for source in sources]))
        return [tuple(next(made) for _ in record.passages) for record in records]

    def _passage(self, source: "_Source") -> WrittenPassage:
        passage, stored = source.passage, source.stored
        terms: Mapping[str, int] = Counter(self._terms(passage.content)) if stored is None else stored.terms
        return WrittenPassage(
            id=passage.id,
            text=passage.text,
            title=passage.title,
            metadata=dict(passage.metadata) or None,
            vector=source.vector,
            codes=source.codes,
            terms=terms,
            length=sum(terms.values()) if stored is None else stored.length,
        )

    def _terms(self, content: str) -> list[str]:
        return [] if self._analyzer is None else self._analyzer.terms(content)


class _Source:
    """What a passage is made from: itself, the vector that it brings, and what is stored of one with its content."""

    __slots__ = ("codes", "encoded", "given", "passage", "stored")

    def __init__(self, passage: Passage, given: FloatArray | None, stored: StoredPassage | None) -> None:
        self.passage = passage
        self.given = given
        self.stored = stored
        self.encoded: FloatArray | None = None
        self.codes: Codes | None = None if stored is None else stored.codes

    @property
    def lacks_vector(self) -> bool:
        return self.given is None and (self.stored is None or self.stored.vector is None)

    @property
    def vector(self) -> FloatArray:
        stored = None if self.stored is None else self.stored.vector
        vector = self.encoded if stored is None else stored
        if self.given is not None:
            return self.given
        assert vector is not None  # what lacks one has been encoded
        return vector


def _stored(passage: Passage, state: StoredDocument | None) -> StoredPassage | None:
    """The first passage of a document's earlier state that has the content of a new one; None if none has."""
    content = passage.content
    stored = () if state is None else state.passages
    return next((each for each in stored if each.passage.content == content), None)


def basis_of(version: WritableVersion) -> Basis:
    """What entries say of a version."""
    manifest, codec = version.manifest, version.codec
    return Basis(
        version=version,
        name=manifest.version,
        encoder=manifest.encoder.digest,
        codec=None if codec is None else codec.digest,
        analyzer=None if manifest.lexical is None else manifest.lexical.analyzer_digest,
    )
