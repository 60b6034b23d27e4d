"""Live shards beside a fresh build: documents that come and go, as the log would bring them, and answers to compare."""

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shoal import filters
from shoal.encoders import Encoder, TextVectors, TokenEncoder, load_encoder
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.plan import shard_of
from shoal.late.codec import Codec
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.live_statistics import CorpusTerms, LiveStatistics
from shoal.metadata import FieldTypes
from shoal.modes import Mode
from shoal.records import FloatArray, Passage
from shoal.search.merge import merge
from shoal.settings import EncoderSettings, LateSettings, LexicalSettings
from shoal.shard.live import LiveShard
from shoal.shard.messages import ShardQuery
from shoal.shard.reader import Shard
from tests.support.indexes import learn, publish

ENCODER = "hashing:32"
LEXICAL = LexicalSettings(lexical_language="none")
LATE = LateSettings(late_interaction="stored", late_dims=8, late_bits=2)
EVERYTHING = 1000
"""More passages than any of these corpora has."""

Document = Sequence[Passage]
"""The passages of a document, whose ids are that of the document, `#` and a number."""


@dataclass
class Corpus:
    """An index of several shards that documents come to."""

    folder: Path
    shards: int
    late: bool = True
    documents: dict[str, Document] = field(default_factory=dict)
    position: int = 0

    def __post_init__(self) -> None:
        self.model = load_encoder(EncoderSettings(encoder=ENCODER))
        self.analyzer = Analyzer(LEXICAL)
        self.codec: Codec | None = None
        self.builds = 0
        self.entries: list[LogEntry] = []

    def open(self) -> "Corpus":
        """Build a version of the documents that there are, and open it for more to come."""
        if self.late:
            texts = [passage.content for document in self.documents.values() for passage in document]
            self.codec = learn(self.model, texts, LATE)
        self.manifest = self.build()
        self.root = self.folder / f"{self.builds}"
        self._open()
        return self

    def restart(self) -> None:
        """Open the version anew, and let shards and statistics see all entries at once."""
        for shard in self.base:
            shard.close()
        self._open()
        self.apply(*self.entries)

    def _open(self) -> None:
        self.base = open_shards(self.root, self.manifest)
        path = self.root / layout.corpus_terms_of(self.manifest.version)
        self.statistics = LiveStatistics(CorpusTerms(path), self.analyzer)
        self.live = [
            LiveShard(shard, self.manifest, number, threads=1, statistics=self.statistics.of_query)
            for number, shard in enumerate(self.base)
        ]

    def build(self) -> Manifest:
        """Publish a version of the documents in a root of its own."""
        self.builds += 1
        return publish(
            self.folder / f"{self.builds}",
            f"v{self.builds}",
            [passage for document in self.documents.values() for passage in document],
            shards=self.shards,
            encoder=ENCODER,
            lexical=LEXICAL,
            late=LATE if self.late else None,
            codec_of_tokens=self.codec,
            writable=True,
            pieces=1000,
        )

    def fresh(self) -> tuple[list[Shard], Manifest]:
        """A fresh build of the documents as they are, opened."""
        manifest = self.build()
        return open_shards(self.folder / f"{self.builds}", manifest), manifest

    def entry(self, writes: Mapping[str, Document]) -> LogEntry:
        """The next entry of the log, as a writer makes it that has applied all before; no passages delete."""
        self.position += 1
        documents = []
        for name, passages in writes.items():
            (stored,) = self.live[shard_of(name, self.shards)].lookup([name])
            retired = RetiredState({}, 0, 0) if stored is None else stored.retired
            documents.append(DocumentWrite(name, retired, tuple(self.written(passage) for passage in passages)))
        self.documents = {name: document for name, document in {**self.documents, **writes}.items() if document}
        made = LogEntry(self.position, "nonce", 0.0, "encoder", None, None, (), tuple(documents))
        self.entries.append(made)
        return made

    def written(self, passage: Passage) -> WrittenPassage:
        """A passage with its vector, codes and terms."""
        return written(passage, self.model, self.analyzer, self.codec)

    def apply(self, *entries: LogEntry) -> None:
        """Let shards and statistics see entries."""
        self.statistics.apply(entries)
        for shard in self.live:
            shard.apply(entries)

    def write(self, writes: Mapping[str, Document]) -> None:
        """Write documents, and let everything see it."""
        self.apply(self.entry(writes))

    def query(self, text: str, mode: Mode, document: Mapping[str, Any] | None, types: FieldTypes) -> ShardQuery:
        """What is asked of every shard; its statistics are those of the version that it was built with."""
        tree = filters.parse(document, types, 100, 10) if document else None
        vector = None if mode == "lexical" else self.model.encode_queries([text])[0]
        return ShardQuery(text, vector, mode, tree)

    def tokens(self, text: str) -> TextVectors:
        """The vectors of the tokens of a query."""
        assert isinstance(self.model, TokenEncoder)
        return self.model.encode_query_tokens([text])[0]


def written(passage: Passage, model: Encoder, analyzer: Analyzer, codec: Codec | None = None) -> WrittenPassage:
    """A passage as a writer logs it."""
    codes = None
    if codec is not None:
        assert isinstance(model, TokenEncoder)
        codes = codec.encode(model.encode_passage_tokens([passage.content])[0].tokens)
    terms = analyzer.terms(passage.content)
    vector = model.encode_passages([passage.content])[0]
    metadata = dict(passage.metadata) or None
    return WrittenPassage(passage.id, passage.text, passage.title, metadata, vector, codes, Counter(terms), len(terms))


def append(root: Path, *documents: DocumentWrite) -> int:
    """Write documents to the log of an index root in one entry, as any process may; returns its position."""

    manifest = versions.current_manifest(Storage(str(root)))
    analyzer = None if manifest.lexical is None else manifest.lexical.analyzer_digest
    codec = None if manifest.late is None else "codec"

    def make(position: int) -> LogEntry:
        encoder, nonce = manifest.encoder.digest, secrets.token_hex(8)
        return LogEntry(position, nonce, time.time(), encoder, codec, analyzer, (), documents, manifest.version)

    log = Log.open(str(root))
    return LogWriter(log, log.end()).append(make, lambda entry: None).position


def document(passages: Sequence[Passage], before: Sequence[Passage], model: Encoder, name: str = "") -> DocumentWrite:
    """A write of a document that consists of these passages, and of others before; none delete it."""
    analyzer = Analyzer(LexicalSettings())
    retired = [written(passage, model, analyzer) for passage in before]
    holding = Counter(term for passage in retired for term in passage.terms)
    state = RetiredState(dict(holding), sum(passage.length for passage in retired), len(retired))
    return DocumentWrite(
        name or passages[0].id, state, tuple(written(passage, model, analyzer) for passage in passages)
    )


def open_shards(root: Path, manifest: Manifest) -> list[Shard]:
    storage = Storage(str(root))
    return [Shard.open(storage, manifest, entry.shard, cache=None, threads=1) for entry in manifest.shards]


Ranking = list[tuple[str, float, dict[str, float]]]
"""Ids, scores and the scores of all retrievers, best first."""


def ranking(shards: Sequence[Shard | LiveShard], query: ShardQuery, top_k: int) -> dict[str, Ranking]:
    """What all shards find for a query, by retriever."""
    hits = [shard.search([query], top_k, False) for shard in shards]
    return {
        name: [
            (found.id, found.score, dict(found.scores))
            for found in merge([(number, one.by_retriever[name], 0) for number, one in enumerate(hits)], top_k, name)
        ]
        for name in hits[0].by_retriever
    }


def late_scores(shards: Sequence[Shard | LiveShard], query: ShardQuery, tokens: TextVectors) -> dict[str, float]:
    """What late interaction gives every passage that is found by vectors."""
    scores: dict[str, float] = {}
    for shard in shards:
        hits = shard.search([query], EVERYTHING, False).by_retriever["dense"]
        rows = [row for row in hits.rows[0].tolist() if row >= 0]
        scores |= dict(zip(hits.ids[0], shard.score(tokens, rows).tolist(), strict=True))
    return scores


def vectors_of(shards: Sequence[Shard | LiveShard], ids: Sequence[str]) -> dict[str, tuple[Passage, FloatArray]]:
    """Passages and vectors by id, each found by its id."""
    found: dict[str, tuple[Passage, FloatArray]] = {}
    for shard in shards:
        rows = [row for row in shard.ids.find(ids) if row >= 0]
        fetched = shard.fetch(rows, with_vectors=True)
        assert fetched.vectors is not None
        found |= {
            passage.id: (passage, np.asarray(vector))
            for passage, vector in zip(fetched.passages, fetched.vectors, strict=True)
        }
    return found
