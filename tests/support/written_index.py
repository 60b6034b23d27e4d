"""An index that is written to by all that its clients may do, beside a fresh build of what should be there.

What is expected is kept as plain records: their passages, the vectors that they brought, and where in the log each was
last written. A fresh build has the same reduction of token vectors.
"""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.client.answers import SearchResponse
from shoal.client.writes import WriteCall
from shoal.encoders import load_encoder
from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexing.compaction import compact
from shoal.late.codec import Codec
from shoal.records import FloatArray, Passage
from shoal.settings import CompactSettings, EncoderSettings, LateSettings, LexicalSettings, SourceSettings
from shoal.sources.pieces import PassageCutter
from shoal.writing.checks import normalised
from tests.support.indexes import learn, publish

DIM = 32
"""Numbers of a vector."""
ENCODER = f"hashing:{DIM}"
LEXICAL = LexicalSettings(lexical_language="none")
LATE = LateSettings(late_interaction="stored", late_dims=8, late_bits=2)
PIECE_CHARACTERS = 50
"""Most characters of a passage where texts are cut."""
EVERYTHING = 100
"""More passages than there ever are."""
SETTINGS: dict[str, Any] = {
    "reranker": "overlap",
    "timeout_ms": 60_000,
    "write_timeout_ms": 60_000,
    "shard_patience_ms": 600_000,
}
"""That nothing is left out on a machine that is busy."""
QUERIES = ("otter", "fish river quick", "quick quick stone unknown")
FILTERS: tuple[dict[str, Any], ...] = (
    {"year": {"$gte": 2003}},
    {"rank": {"$lt": 2.5}},
    {"rank": {"$exists": False}},
    {"labels": {"$in": ["a", "c"]}},
    {"$or": [{"year": 2001}, {"labels": "b"}]},
)
"""Of the fields, `year` is in the first version, and the others come with later records."""


@dataclass(frozen=True)
class Piece:
    """A passage that should be there. vector: float32 (dim,) that it brought, None where it was encoded."""

    passage: Passage
    vector: FloatArray | None


Record = Mapping[str, Any]
"""A record as a client sends it."""


class WrittenIndex:
    """An index in this process, and what should be in it.

    Args:
        folder: For the index and the fresh builds.
        shards: Of all of them.
        is_cut: Whether texts are cut into passages of PIECE_CHARACTERS.
        records: Of the first version, with texts and metadata alone.
    """

    def __init__(self, folder: Path, shards: int, is_cut: bool, records: Sequence[Record]) -> None:
        self.folder = folder
        self.shards = shards
        self.is_cut = is_cut
        source = SourceSettings(source="-", format="jsonl", chunk_characters=PIECE_CHARACTERS)
        self._cutter = PassageCutter(source) if is_cut else None
        self.documents: dict[str, list[Piece]] = {}
        self.positions: dict[str, int] = {}
        self.position = 0
        self.builds = 0
        for record in records:
            self._expect(record, 0)
        self.codec: Codec = learn(
            load_encoder(EncoderSettings(encoder=ENCODER)),
            [piece.passage.content for pieces in self.documents.values() for piece in pieces],
            LATE,
        )
        self.root = self._publish("index")
        self.index = shoal.open(self.root, **SETTINGS)

    def close(self) -> None:
        """Close the index and remove all."""
        self.index.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """Open the index anew, which replays the log."""
        self.index.close()
        self.index = shoal.open(self.root, **SETTINGS)

    def call(self, call: WriteCall) -> dict[str, Any]:
        """Send a request that writes, and return its answer. Raises what the server would refuse it with."""
        return self.index._run(lambda calls: calls.write(call))

    def upsert(self, records: Sequence[Record], answer: Mapping[str, Any]) -> None:
        """Expect what a request has written, by its answer."""
        changed = sum(self._expect(record, answer["position"]) for record in records)
        assert (answer["written"], answer["unchanged"]) == (changed, len(records) - changed)
        self.position = max(self.position, answer["position"])

    def update(self, id_: str, metadata: Mapping[str, Any], merge: bool, answer: Mapping[str, Any]) -> None:
        """Expect other metadata of one record, by the answer."""
        self.position = max(self.position, answer["position"])
        assert answer["missing"] == ([] if id_ in self.documents else [id_])
        pieces = self.documents.get(id_)
        if pieces is None:
            return
        changed = [Piece(_with_metadata(piece.passage, metadata, merge), piece.vector) for piece in pieces]
        is_other = any(new.passage != old.passage for new, old in zip(changed, pieces, strict=True))
        assert (answer["updated"], answer["unchanged"]) == (int(is_other), int(not is_other))
        if is_other:
            self.documents[id_], self.positions[id_] = changed, answer["position"]

    def delete(self, ids: Sequence[str], answer: Mapping[str, Any]) -> None:
        """Expect records to be gone, by the answer."""
        self.position = max(self.position, answer["position"])
        there = [id_ for id_ in dict.fromkeys(ids) if id_ in self.documents]
        assert (answer["deleted"], answer["more"]) == (len(there), False)
        for id_ in there:
            del self.documents[id_], self.positions[id_]

    def selected(self, name: str, value: Any) -> list[str]:
        """Records of which a passage has a value in a field."""
        return [
            id_
            for id_, pieces in self.documents.items()
            if any((piece.passage.metadata or {}).get(name) == value for piece in pieces)
        ]

    def compact(self) -> None:
        """Make a version of the current one and the log, and serve it."""
        compact(CompactSettings(index=str(self.root)), Log.open(str(self.root)))
        self.index.refresh()

    def can_roll_back(self) -> bool:
        """Whether there is a version to return to."""
        current = versions.read_current(Storage(str(self.root)))
        return current is not None and current.previous is not None

    def compare(self) -> None:
        """Compare all answers with those of a fresh build. Raises AssertionError."""
        fresh_root = self._publish(f"fresh{self.builds}")
        with shoal.open(fresh_root, **SETTINGS) as fresh:
            _compare(self.index, fresh, self.position)
        shutil.rmtree(fresh_root)

    def _expect(self, record: Record, position: int) -> bool:
        """Take a record in, and return whether it is another one than before."""
        id_, before = record["id"], self.documents.get(record["id"], [])
        vector = None if record.get("vector") is None else normalised(record["vector"], DIM)
        passage = Passage(id_, record.get("text") or "", record.get("title"), dict(record.get("metadata") or {}))
        passages = [passage] if self._cutter is None else self._cutter.cut(passage)
        # What has not changed keeps its vector, unless it brings another.
        kept = {piece.passage.content: piece.vector for piece in reversed(before)}
        pieces = [Piece(each, kept.get(each.content) if vector is None else vector) for each in passages]
        if len(pieces) == len(before) and all(map(_is_equal, pieces, before)):
            return False
        self.documents[id_], self.positions[id_] = pieces, position
        return True

    def _publish(self, name: str) -> Path:
        """Build the records as they are in a root of its own."""
        self.builds += 1
        pieces = [piece for pieces in self.documents.values() for piece in pieces]
        publish(
            self.folder / name,
            f"20260101T000000000-{self.builds:08x}",
            [piece.passage for piece in pieces],
            shards=self.shards,
            encoder=ENCODER,
            lexical=LEXICAL,
            late=LATE,
            codec_of_tokens=self.codec,
            writable=True,
            pieces=PIECE_CHARACTERS if self.is_cut else 0,
            vectors={piece.passage.id: piece.vector for piece in pieces if piece.vector is not None},
        )
        return self.folder / name


def _compare(live: shoal.Index, fresh: shoal.Index, position: int) -> None:
    ids = fresh.list(limit=EVERYTHING).ids
    assert live.list(limit=EVERYTHING, min_position=position).ids == ids
    included: Any = ["text", "metadata", "vector"]
    if ids:
        mine = live.fetch(ids, include=included, min_position=position)
        theirs = fresh.fetch(ids, include=included)
        assert mine.missing == theirs.missing == []
        for one, other in zip(mine.passages, theirs.passages, strict=True):
            assert (one.id, one.text, one.title, one.metadata) == (other.id, other.text, other.title, other.metadata)
            np.testing.assert_array_equal(one.vector, other.vector)
    mine_known, theirs_known = live.describe(), fresh.describe()
    assert mine_known.passages == theirs_known.passages == len(ids)
    fields = mine_known.fields.keys() & theirs_known.fields.keys()
    for mode in ("dense", "lexical", "hybrid"):
        for top_n in (2, EVERYTHING):
            options = {"mode": mode, "top_n": top_n, "top_k": top_n, "rerank": False}
            assert _found(live, position, **options) == _found(fresh, 0, **options)
    for condition in FILTERS:
        if _named(condition) <= fields:
            options = {"mode": "hybrid", "top_n": EVERYTHING, "rerank": False, "filter": condition}
            assert _found(live, position, **options) == _found(fresh, 0, **options)
    late = {"mode": "dense", "top_n": EVERYTHING, "top_k": EVERYTHING, "rerank": "late"}
    for found, expected in zip(_found(live, position, **late), _found(fresh, 0, **late), strict=True):
        assert dict(found) == pytest.approx(dict(expected), abs=1e-5)
        # Where they are as good as equal, either may be first.
        scores = [dict(expected)[id_] for id_, _ in found]
        assert all(before >= after - 1e-5 for before, after in itertools.pairwise(scores))
    if fields:
        facets = [{"field": name, "limit": 50} for name in sorted(fields)]
        counted = live.search(QUERIES[0], rerank=False, facets=facets, min_position=position).facets
        assert counted == fresh.search(QUERIES[0], rerank=False, facets=facets).facets


def _found(index: shoal.Index, position: int, **options: Any) -> list[list[tuple[str, float]]]:
    """Ids and scores of what is found for each query, best first."""
    answers: list[SearchResponse] = index.search(list(QUERIES), min_position=position, **options)
    assert [answer.degraded for answer in answers] == [None] * len(QUERIES)
    return [[(result.id, result.score) for result in answer.results] for answer in answers]


def _named(condition: Mapping[str, Any]) -> set[str]:
    return {
        name for key, part in condition.items() for name in ([key] if key[0] != "$" else [n for p in part for n in p])
    }


def _is_equal(one: Piece, other: Piece) -> bool:
    """Whether two pieces are the same; an encoded vector is that of the content."""
    if one.passage != other.passage or (one.vector is None) != (other.vector is None):
        return False
    return one.vector is None or other.vector is None or bool((one.vector == other.vector).all())


def _with_metadata(passage: Passage, metadata: Mapping[str, Any], merge: bool) -> Passage:
    values = {**(passage.metadata or {}), **metadata} if merge else dict(metadata)
    kept = {name: value for name, value in values.items() if value is not None}
    return Passage(passage.id, passage.text, passage.title, kept)
