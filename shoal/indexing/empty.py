"""An index may begin without passages: a version of empty shards, which says how what comes is encoded and cut."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal

from shoal.encoders import load_encoder
from shoal.encoders._absent import is_absent, name_of
from shoal.errors import Conflict, CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.manifest import TEXT_FIELD, Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Tally
from shoal.indexing.first_encoder import FirstEncoder, describe_first
from shoal.indexing.plan import NO_SOURCE, Plan
from shoal.indexing.source_options import TEXT_CHARACTERS
from shoal.indexing.stages import publish_units
from shoal.lexical.analyzer import Analyzer
from shoal.settings import BuildSettings, CreateSettings, IndexSettings, LateSettings, LexicalSettings, SourceSettings

KIND = "flat"
"""The index kind of no vectors: it needs no training. What is built over it chooses its own."""
NO_TEXT_FIELDS = frozenset({"id", "_id", "title", "vector", "metadata"})
"""Fields of records that hold no text."""
KEPT = (
    "chunk_characters",
    "chunk_overlap",
    "late_bits",
    "late_dims",
    "lexical",
    "lexical_b",
    "lexical_k1",
    "lexical_language",
    "lexical_stopwords",
    "metadata_types",
    "piece_ids",
    "text_field",
)
"""Settings of an empty version that a build over it keeps where it names no others; so are those of the encoder."""


def create_index(settings: CreateSettings, encoder: FirstEncoder | None = None) -> Manifest:
    """Publish a version without passages in a new index root, and make it current.

    Args:
        settings: Of the index.
        encoder: What is to be known of its encoder (`describe_first`); None loads it to find out.

    Raises:
        Conflict: The root holds a version already.
        InvalidArgument: The settings contradict one another.
        ModelUnavailable: The encoder is not to be had.
    """
    storage = Storage(settings.index)
    _require_new(storage)
    if settings.documents:
        settings = settings.model_copy(update={"chunk_characters": settings.chunk_characters or TEXT_CHARACTERS})
    _check_writable(settings)
    if encoder is None:
        named = settings.model_copy(update={"encoder": _encoder_name(settings)})
        encoder = describe_first(named, load_encoder(named))
    plan = _plan(settings, encoder)
    storage.write(layout.plan(plan.hash), plan.to_bytes())
    if encoder.codec is not None:
        storage.write(layout.codec(plan.hash), encoder.codec.to_bytes())
    try:
        manifest = publish_units(plan, storage, Tally(0, plan.shards), settings.threads, verify_queries=0)
        versions.activate(storage, manifest.version, verified=True)
    finally:
        versions.discard_staging(storage, plan.hash)
    return manifest


def keep_settings(settings: BuildSettings) -> tuple[BuildSettings, str | None]:
    """The settings of a build over an empty version: that version's own, where the build names no others.

    Returns them with what is to be said about it; the same settings and None over any other version.
    """
    storage = Storage(settings.index)
    try:
        manifest = versions.current_manifest(storage)
    except (NotFound, CorruptIndex):
        return settings, None
    if manifest.counts.passages:
        return settings, None
    kept: dict[str, Any] = {name: manifest.build[name] for name in KEPT if manifest.build.get(name) is not None}
    options = manifest.encoder.options
    kept |= {"encoder": options.pop("encoder")}
    if len(manifest.shards) > 1:  # one is what nobody asked for: the build goes by the size of its source
        kept |= {"shards": len(manifest.shards)}
    if kept.get("text_field") == TEXT_FIELD:  # which needs no words
        del kept["text_field"]
    if "encoder" not in settings.model_fields_set:
        kept |= options
    added = {name: value for name, value in kept.items() if name not in settings.model_fields_set}
    if not added:
        return settings, None
    texts = f", text_field {added['text_field']}" if "text_field" in added else ""
    return settings.model_copy(update=added), (
        f"{manifest.version} is empty, and its settings are kept where this command names no others: encoder "
        f"{added.get('encoder', settings.encoder)}{texts}"
    )


def _require_new(storage: Storage) -> None:
    """Raise Conflict unless no version was published in a root."""
    try:
        current = versions.read_current(storage)
    except NotFound:
        return
    if known := [current.version] if current is not None else versions.list_versions(storage):
        raise Conflict(
            f"{storage.place()} holds version {known[-1]} already; create an index in another place, or build over it"
        )


def _check_writable(settings: CreateSettings) -> None:
    """Raise InvalidArgument for what no index takes that is filled by writes."""
    if settings.sparse_encoder is not None:
        raise InvalidArgument(
            "an index with a sparse encoder takes no writes, so that an empty one would stay empty; build it from a "
            "source, or leave sparse_encoder out",
            param="sparse_encoder",
        )
    if settings.late_encoder is not None:
        raise InvalidArgument(
            "an index that begins empty has no multi-vector model; build it from a source, or leave late_encoder out",
            param="late_encoder",
        )
    if settings.lexical:
        Analyzer(settings)
    _check_chunks(settings)
    if settings.text_field in NO_TEXT_FIELDS:
        raise InvalidArgument(
            f"text_field cannot be {settings.text_field!r}, which records have for something else", param="text_field"
        )


def _plan(settings: CreateSettings, encoder: FirstEncoder) -> Plan:
    """The plan of a build without input."""
    stored: Literal["stored", "none"] = "none" if encoder.codec is None else "stored"
    now = datetime.now(UTC)
    plan = Plan(
        hash="",
        version="",
        created_at=now.isoformat(timespec="milliseconds"),
        files=[],
        shards=settings.shards,
        estimated_passages=0,
        unit_records=1,
        unit_bytes=1,
        source=settings.part(
            SourceSettings,
            source=NO_SOURCE,
            format="text" if settings.documents else "jsonl",
            cut_by="structure" if settings.documents else "auto",
            id_field="id",
            unit_passages=1,
        ),
        index=IndexSettings(index_kind=KIND),
        lexical=settings.part(LexicalSettings),
        late=settings.part(LateSettings, late_interaction=stored),
        encoder=encoder.fingerprint,
    )
    body = [plan.settings, plan.encoder.model_dump(mode="json", exclude={"model"})]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    changes = {"hash": digest, "content_hash": digest, "version": versions.make_version(now, digest)}
    return plan.model_copy(update=changes)


def _encoder_name(settings: CreateSettings) -> str:
    """The encoder that is asked for, or `none` with the dimension."""
    if settings.dimension is None:
        return settings.encoder
    if "encoder" in settings.model_fields_set and not is_absent(settings.encoder):
        raise InvalidArgument(
            "an index has an encoder, which decides its dimension, or a dimension alone; leave out --encoder or "
            "--dimension",
            param="dimension",
        )
    return name_of(settings.dimension)


def _check_chunks(settings: CreateSettings) -> None:
    """Raise InvalidArgument where texts cannot be cut so."""
    if settings.chunk_overlap >= (settings.chunk_characters or max(1, settings.chunk_overlap + 1)):
        raise InvalidArgument("chunk_overlap must be less than chunk_characters", param="chunk_overlap")
    if settings.chunk_overlap and settings.chunk_characters is None:
        raise InvalidArgument("chunk_overlap needs chunk_characters, which is not set", param="chunk_overlap")
    if settings.piece_ids == "content" and settings.chunk_characters is None:
        raise InvalidArgument("piece_ids needs chunk_characters, which is not set", param="piece_ids")
    if settings.chunk_characters is not None and is_absent(_encoder_name(settings)):
        raise InvalidArgument(
            "a document with a vector of its own cannot be cut; leave out --chunk-characters and --documents, or "
            "--dimension",
            param="chunk_characters",
        )
