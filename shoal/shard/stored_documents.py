"""What a shard holds of a document: what a write of it replaces, and what its unchanged content keeps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shoal.index_root.log_entry import RetiredState
from shoal.late.codec import Codes
from shoal.records import FloatArray, Passage, RowArray

if TYPE_CHECKING:  # it imports FAISS
    from shoal.shard.runs import Segment


@dataclass(frozen=True, slots=True, eq=False)
class StoredPassage:
    """A passage as a shard holds it.

    vector: float32 (dim,), as near as the index keeps it; None where its kind keeps approximations only.
    codes: of its tokens, uint8 (tokens, width); None where none are stored.
    terms: how often each term occurs in it; length: their sum. Both are empty where words are not indexed.
    """

    passage: Passage
    vector: FloatArray | None
    codes: Codes | None
    terms: Mapping[str, int]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredDocument:
    """A document as a shard holds it. position: of its last write; 0 where it came from a source."""

    document: str
    position: int
    passages: tuple[StoredPassage, ...]

    @property
    def retired(self) -> RetiredState:
        """What leaves the statistics of the corpus when the document is written or deleted."""
        holding = Counter(term for stored in self.passages for term in stored.terms)
        return RetiredState(dict(holding), sum(stored.length for stored in self.passages), len(self.passages))


def stored_document(
    document: str, segment: "Segment", rows: Sequence[int], position: int, positions: RowArray | None
) -> StoredDocument:
    """Read a document out of the rows of a segment.

    Args:
        document: Its id.
        segment: Where it lies.
        rows: Its rows there.
        position: Of its write, -1 where `positions` tell it.
        positions: Of the rows of the version's shard, int64 (n,); None where all came from a source.
    """
    shard, places = segment.shard, np.array(rows, np.int64)
    vectors, codes, lexical = shard.vectors(places), shard.codes(places), shard.lexical
    passages = []
    for number, row in enumerate(rows):
        passage = shard.passage(row)
        terms = Counter(lexical.analyzer.terms(passage.content)) if lexical is not None else Counter()
        passages.append(
            StoredPassage(
                passage,
                None if vectors is None else vectors[number],
                None if codes is None else codes[number],
                dict(terms),
                terms.total(),
            )
        )
    if position < 0:
        position = 0 if positions is None else int(positions[rows[0]])
    return StoredDocument(document, position, tuple(passages))
