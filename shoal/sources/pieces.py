"""From a record to its passages, as the settings of a source say; builds and writes to a served index share it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

from shoal.extraction.places import LINE_FIELD, PAGE_FIELD
from shoal.records import Metadata, Passage
from shoal.settings import SourceSettings
from shoal.sources import documents
from shoal.sources.chunking import Chunker
from shoal.sources.cutting import Cutter, Piece
from shoal.sources.fields import check_id

_DIGEST_BYTES = 6
"""Bytes of the digest that an id ends with. Equal ones are told apart by number, whatever the texts."""


class PassageCutter:
    """Cuts records into passages, which `chunk_characters` of the settings says the length of.

    Args:
        source: The settings, resolved.
    """

    def __init__(self, source: SourceSettings) -> None:
        assert source.chunk_characters is not None
        self._are_documents = source.format == "text"
        self._chunker = Chunker(source.chunk_characters, source.chunk_overlap)
        by_structure = self._are_documents and source.cut_by == "structure"
        self._cutter = Cutter(source.chunk_characters, source.chunk_overlap) if by_structure else None
        self._ids = _content_ids if source.piece_ids == "content" else _numbers
        chosen = source.metadata_fields
        self._kept = {name for name in (PAGE_FIELD, LINE_FIELD) if chosen is None or name in chosen}

    def cut(self, passage: Passage) -> list[Passage]:
        """Cut a record into passages, whose ids are its own and what tells them apart.

        Raises BadRecord for ids that get too long.
        """
        # Of a record that has only a title, the title is the one passage.
        pieces = self._pieces(passage) or [Piece("", passage.title)]
        ids = [check_id(f"{passage.id}#{part}", "id") for part in self._ids(pieces)]
        return [
            Passage(id_, piece.text, piece.title, self._located(passage.metadata, piece))
            for id_, piece in zip(ids, pieces, strict=True)
        ]

    def _pieces(self, passage: Passage) -> list[Piece]:
        if self._cutter is not None:
            return self._cutter.pieces(passage.id, passage.text, passage.title)
        is_markdown = self._are_documents and documents.is_markdown(passage.id)
        return [Piece(text, passage.title) for text in self._chunker.chunks(passage.text, markdown=is_markdown)]

    def _located(self, metadata: Metadata, piece: Piece) -> Metadata:
        """Metadata with the place of a piece, unless the record has fields of those names itself."""
        place = {PAGE_FIELD: piece.page, LINE_FIELD: piece.line}
        known = {name: number for name, number in place.items() if number is not None and name in self._kept}
        return {**known, **metadata} if known else metadata


def _numbers(pieces: Iterable[Piece]) -> Iterator[str]:
    return (str(number) for number, _ in enumerate(pieces, 1))


def _content_ids(pieces: Iterable[Piece]) -> Iterator[str]:
    """Digests of what is embedded of each piece; of equal ones the second and the later ones are numbered."""
    seen: Counter[str] = Counter()
    for piece in pieces:
        content = f"{piece.title or ''}\n{piece.text}".encode()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
        seen[digest] += 1
        yield digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
