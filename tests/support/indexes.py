"""Small published index versions, written as the build job writes them but without it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.encoders import Encoder, TokenEncoder, load_encoder
from shoal.index_root import layout, versions
from shoal.index_root.manifest import (
    CorpusStatistics,
    Counts,
    FileEntry,
    LateInfo,
    LexicalInfo,
    Manifest,
    VectorIndexInfo,
)
from shoal.index_root.storage import Storage
from shoal.indexing.lexical import make_info
from shoal.indexing.plan import shard_of
from shoal.late import codec
from shoal.late.codec import Codec
from shoal.late.writer import COLUMN, TokenWriter, column_of
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.statistics import contents, count_terms, look_up, merge_terms, read_terms, read_totals
from shoal.lexical.writer import LexicalWriter
from shoal.metadata import Observed
from shoal.records import FloatArray, Passage
from shoal.settings import EncoderSettings, LateSettings, LexicalSettings
from shoal.shard.documents import DocumentWriter
from shoal.shard.passages import to_batch
from shoal.shard.writer import write_shard

PLAN = "1a2b3c4d" * 8


class LexicalTerms:
    """The terms of shards, given as record batches of passages, counted as the build does it."""

    def __init__(self, folder: Path, parts: Sequence[pa.RecordBatch], settings: LexicalSettings) -> None:
        folder.mkdir(parents=True)
        self.storage = Storage(str(folder))
        self.settings = settings
        names = [f"{shard}.arrow" for shard in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            count_terms([part], Analyzer(settings), folder / name)
        merge_terms(self.storage, names, folder / "corpus.arrow")

    def writer(self, folder: Path, shard: int) -> LexicalWriter:
        _, terms, own = read_terms(self.storage, f"{shard}.arrow")
        totals, corpus = look_up(self.storage, "corpus.arrow", terms)
        return LexicalWriter(folder, terms, own, corpus, totals, self.settings)

    def info(self) -> LexicalInfo:
        return make_info(self.settings, read_totals(self.storage, "corpus.arrow"))


def passages(count: int, marker: str = "") -> list[Passage]:
    """Passages with ids p0, p1, ... whose texts differ; `marker` is a word that all of them hold."""
    colours, animals = ("red", "green", "blue", "black", "white"), ("fish", "heron", "otter", "snail", "newt", "frog")
    return [
        Passage(
            f"p{number}",
            f"the {colours[number % 5]} {animals[number % 6]} number n{number} {marker}".strip(),
            metadata={"number": number},
        )
        for number in range(count)
    ]


def publish(  # noqa: PLR0913 (every test names the few that it needs)
    root: Path,
    version: str,
    content: Sequence[Passage],
    *,
    shards: int = 2,
    encoder: str = "hashing:64",
    activate: bool = True,
    lexical: LexicalSettings | None = None,
    late: LateSettings | None = None,
    codec_of_tokens: Codec | None = None,
    writable: bool = False,
    pieces: int = 0,
    vectors: Mapping[str, FloatArray] | None = None,
) -> Manifest:
    """Publish a flat index of the passages as a version of a local index root, and make it current.

    lexical: how it can be searched by words; late: how token vectors are kept. None leaves that out.
    codec_of_tokens: what reduces them; learned from the passages if None. writable: whether documents can be
    written to it later. pieces: most characters of the pieces whose ids these are; 0 for records that stay whole.
    vectors: float32 (dim,) of passages that brought their own, by their ids.
    """

    def document_of(passage: str) -> str:
        return passage.rpartition("#")[0] if pieces else passage

    storage, model = Storage(str(root)), load_encoder(EncoderSettings(encoder=encoder))
    entries = []
    observed = Observed()
    for passage in content:
        observed.see(passage.metadata)
    fields = observed.types({})
    parts = [
        to_batch([passage for passage in content if shard_of(document_of(passage.id), shards) == shard])
        for shard in range(shards)
    ]
    learned = codec_of_tokens
    if late and learned is None:
        learned = learn(model, [passage.content for passage in content], late)
    terms = LexicalTerms(root.parent / f"terms-{version}", parts, lexical) if lexical else None
    for shard, batch in enumerate(parts):
        block = (with_tokens(batch, model, learned), vectors_of(batch, model, vectors or {}))
        folder = storage.local_path(layout.shard_dir(version, shard))
        entries.append(
            write_shard(
                folder,
                [block],
                shard=shard,
                dim=model.dim,
                kind="flat",
                trained=None,
                threads=1,
                lexical=terms and terms.writer(folder, shard),
                tokens=TokenWriter(folder, learned) if learned else None,
                documents=DocumentWriter(folder, document_of) if writable else None,
                fields=fields,
            )
        )
    files = []
    if lexical and writable:
        terms_file = layout.corpus_terms_of(version)
        shutil.copy(root.parent / f"terms-{version}" / "corpus.arrow", storage.local_path(terms_file))
        digest, size = storage.sha256(terms_file)
        files.append(FileEntry(path="terms.arrow", bytes=size, sha256=digest))
    text_bytes = sum(len(passage.text.encode()) for passage in content)
    manifest = Manifest(
        version=version,
        plan=PLAN,
        created_at="2026-11-22T23:34:11+00:00",
        encoder=model.fingerprint(),
        dim=model.dim,
        index=VectorIndexInfo(kind="flat", search="", recall_at_10=None, latency_ms=None),
        lexical=terms and terms.info(),
        late=LateInfo(dims=late.late_dims, bits=late.late_bits) if late else None,
        shards=entries,
        files=files,
        counts=Counts(input=len(content), passages=len(content), duplicates=0, rejected=0),
        statistics=CorpusStatistics(text_bytes=text_bytes, mean_text_bytes=text_bytes / max(1, len(content))),
        fields=fields,
        build={"chunk_characters": pieces, "chunk_overlap": 0} if pieces else {},
    )
    versions.publish(storage, manifest)
    if activate:
        versions.activate(storage, version)
    return manifest


def vectors_of(batch: pa.RecordBatch, model: Encoder, given: Mapping[str, FloatArray]) -> FloatArray:
    """The vectors of passages, float32 (n, dim): their own, or what the encoder makes of their texts."""
    encoded = model.encode_passages(contents(batch))
    for row, identity in enumerate(batch.column(0).to_pylist()):
        if identity in given:
            encoded[row] = given[identity]
    return encoded


def learn(model: Encoder, texts: Sequence[str], settings: LateSettings) -> Codec:
    """Learn how tokens are reduced from all of them."""
    assert isinstance(model, TokenEncoder)
    tokens = np.concatenate([one.tokens for one in model.encode_passage_tokens(texts)])
    return codec.train(tokens, settings.late_dims, settings.late_bits)


def with_tokens(batch: pa.RecordBatch, model: Encoder, learned: Codec | None) -> pa.RecordBatch:
    """Passages with their reduced tokens, if these are kept."""
    if learned is None:
        return batch
    assert isinstance(model, TokenEncoder)
    codes = [learned.encode(one.tokens) for one in model.encode_passage_tokens(contents(batch))]
    return batch.append_column(COLUMN, column_of(codes))


def damage(root: Path, version: str, shard: int = 0, name: str = layout.VECTORS) -> Path:
    """Flip one byte in a file of a shard and return the file."""
    path = root / layout.shard_dir(version, shard) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path
