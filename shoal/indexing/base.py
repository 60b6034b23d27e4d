"""The base of a build: the version that is current when it is planned, from which it copies what has not changed.

An encoder makes the same vector of the same text, so that a build embeds only texts that the base does not hold. A
record is looked up by its id; whether a copy will do is decided by the text itself.
"""

import threading
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from shoal.errors import Conflict, CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.digests import Digests
from shoal.index_root.manifest import LateInfo, Manifest
from shoal.index_root.storage import Storage
from shoal.indexes import precision
from shoal.indexing.plan import Plan
from shoal.late.codec import Codec, Codes
from shoal.records import FloatArray, Passage, RowArray
from shoal.settings import BuildSettings
from shoal.shard.stored_rows import StoredRows
from shoal.shard.writer import BATCH_ROWS

READERS = 8
"""Shards of a remote base that are looked through at once: most of the time goes into waiting for answers."""
KEPT_BYTES = 256 * 2**20
"""Most bytes of texts of a remote base that a process keeps at hand, by the mean of the base."""


@dataclass(frozen=True, slots=True)
class Copies:
    """What a base has for the passages of a unit.

    known: bool (n,), whether it holds a passage of that id. places: int64 (k,), ascending, the passages whose text it
    holds. vectors: float32 (k, dim), theirs. codes: uint8 (t_i, width), those of their tokens; empty without tokens.
    """

    known: NDArray[np.bool_]
    places: RowArray
    vectors: FloatArray
    codes: list[Codes] = field(default_factory=list)

    @property
    def copied(self) -> NDArray[np.bool_]:
        """Whether a passage has a copied vector, bool (n,)."""
        copied = np.zeros(len(self.known), np.bool_)
        copied[self.places] = True
        return copied


class Base:
    """A version that vectors and token codes are copied from. Safe for concurrent calls.

    Args:
        storage: The index root.
        version: One that `choose_base` chose.
        stores_tokens: Whether token codes are copied too.

    Raises:
        Conflict: The version is gone.
    """

    def __init__(self, storage: Storage, version: str, stores_tokens: bool) -> None:
        self._storage = storage
        self.version = version
        self._stores_tokens = stores_tokens
        try:
            self._manifest = versions.read_manifest(storage, version)
        except NotFound as error:
            raise self._gone() from error
        shards = self._manifest.shards
        mean_bytes = self._manifest.statistics.mean_text_bytes
        keep = not storage.is_local and BATCH_ROWS * mean_bytes * len(shards) <= KEPT_BYTES
        self._shards = [StoredRows(storage, self._manifest, entry.shard, keep) for entry in shards]
        self._locks = [threading.Lock() for _ in shards]
        self._readers = None if storage.is_local else ThreadPoolExecutor(READERS, "base")

    @property
    def shards(self) -> int:
        """Shards of the version."""
        return len(self._shards)

    def codec(self) -> Codec:
        """What its token vectors were reduced with. Raises CorruptIndex for a file that is not as it was published."""
        late = self._manifest.late
        if late is None:
            raise ValueError(f"{self.version} stores no token vectors")
        # What is taken over from a damaged file stays, also when that is restored.
        if problems := _file_problems(self._storage, self._manifest, 0, {layout.LATE_PROJECTION}):
            raise damaged(self.version, problems)
        return Codec.from_projection(self._shards[0].projection(), late.bits)

    def look_up(self, documents: Digests, passages: Sequence[Passage]) -> Copies:
        """Find what the base has for passages.

        Args:
            documents: uint64 (n,), digests of the records that they come from.
            passages: The n passages.

        Raises:
            Conflict: The version was removed meanwhile.
        """
        shards = (documents % np.uint64(len(self._shards))).astype(np.int64)
        calls = [(shard, np.flatnonzero(shards == shard)) for shard in np.unique(shards).tolist()]

        def from_shard(call: tuple[int, RowArray]) -> tuple[RowArray, Copies]:
            shard, places = call
            with self._locks[shard]:
                return places, self._from_shard(shard, documents[places], [passages[place] for place in places])

        try:
            parts = list(map(from_shard, calls) if self._readers is None else self._readers.map(from_shard, calls))
        except NotFound as error:
            raise self._gone() from error
        return self._joined(len(passages), parts)

    def _from_shard(self, shard: int, documents: Digests, passages: Sequence[Passage]) -> Copies:
        """What one shard has for passages whose records lie there."""
        stored = self._shards[shard]
        rows = stored.documents.rows(documents)
        ids, contents = stored.passages(rows)
        ids_there = set(ids)
        # A text that lies there twice counts where it is first, so that the result does not depend on the unit.
        row_of = dict(zip(reversed(contents), reversed(rows.tolist()), strict=True))
        known = np.array([passage.id in ids_there for passage in passages], np.bool_)
        source = np.array([row_of.get(passage.content, -1) for passage in passages], np.int64)
        places = np.flatnonzero(source >= 0)
        distinct, inverse = np.unique(source[places], return_inverse=True)
        vectors = stored.vectors(distinct)[inverse] if len(distinct) else np.empty((0, self._manifest.dim), np.float32)
        if not self._stores_tokens:
            return Copies(known, places, vectors)
        codes = stored.codes(distinct) if len(distinct) else []
        return Copies(known, places, vectors, [codes[row] for row in inverse.tolist()])

    def _joined(self, count: int, parts: Sequence[tuple[RowArray, Copies]]) -> Copies:
        """Put together what the shards have for `count` passages; each part with the places of its own."""
        known = np.zeros(count, np.bool_)
        for places, copies in parts:
            known[places] = copies.known
        found = np.concatenate([np.zeros(0, np.int64), *(places[copies.places] for places, copies in parts)])
        order = np.argsort(found)
        vectors = np.concatenate(
            [np.empty((0, self._manifest.dim), np.float32), *(copies.vectors for _, copies in parts)]
        )
        codes = [code for _, copies in parts for code in copies.codes]
        return Copies(known, found[order], vectors[order], [codes[place] for place in order.tolist()] if codes else [])

    def _gone(self) -> Conflict:
        return Conflict(
            f"version {self.version}, whose vectors this build copies, was removed meanwhile; run the same command "
            "again: it goes by the version that is current now"
        )


def open_base(plan: Plan, storage: Storage) -> Base | None:
    """Open the base of a plan; None for a plan that copies nothing. Raises Conflict when the version is gone."""
    return None if plan.base is None else Base(storage, plan.base, plan.stores_tokens)


def keep_passage_tokens(settings: BuildSettings) -> BuildSettings:
    """The settings with passage_tokens as in the current version, unless they name it or everything is embedded anew.

    So its vectors can be copied, and texts are not read in two ways in one index. A version of an encoder of another
    name says nothing.
    """
    if "passage_tokens" in settings.model_fields_set or settings.reembed:
        return settings
    try:
        encoder = versions.current_manifest(Storage(settings.index)).encoder
    except (NotFound, CorruptIndex):
        return settings
    if PurePath(encoder.model).name != PurePath(settings.encoder).name:
        return settings
    return settings.model_copy(update={"passage_tokens": encoder.passage_tokens})


def keep_late_encoder(settings: BuildSettings) -> BuildSettings:
    """The settings with late_encoder as in the current version, unless they name one or everything is embedded anew.

    So its token vectors can be copied. A build that stores none, and a version of an encoder of another name, have
    nothing to copy.
    """
    if settings.late_encoder is not None or settings.reembed or settings.late_interaction == "none":
        return settings
    try:
        encoder = versions.current_manifest(Storage(settings.index)).encoder
    except (NotFound, CorruptIndex):
        return settings
    if encoder.late is None or PurePath(encoder.model).name != PurePath(settings.encoder).name:
        return settings
    return settings.model_copy(update={"late_encoder": encoder.late.model})


def choose_base(plan: Plan, storage: Storage) -> tuple[Plan, str | None]:
    """Return a plan with its base, if the current version may be one, and what is to be said about it.

    Nothing is said where there is no current version, where that is empty or one of this very plan, or where the input
    brings its vectors.
    """
    if plan.source.vectors_field is not None:
        return plan, None
    try:
        current = versions.read_current(storage)
        if current is None:
            return plan, None
        manifest = versions.read_manifest(storage, current.version)
    except NotFound:
        return plan, None
    except CorruptIndex as error:
        return plan, f"every passage is embedded anew: {error.message}"
    if not manifest.counts.passages or manifest.plan == plan.content_hash:
        return plan, None  # whoever builds the same again wants it made anew
    if reason := obstacle(plan, manifest):
        later = _later_version(plan, storage, manifest)
        if later is None:
            return plan, f"every passage is embedded anew: {reason}"
        manifest = later
    rounded = " in float16" if precision(manifest.index.kind, manifest.dim) == "float16" else ""
    return plan.with_base(manifest.version, manifest.counts.passages), (
        f"vectors{rounded} of texts that have not changed are copied from {manifest.version} (--reembed embeds all)"
    )


def _later_version(plan: Plan, storage: Storage, current: Manifest) -> Manifest | None:
    """The newest version that was published since the current one and may be a base; None if there is none.

    One with another encoder is not made current as long as something is written to the current one.
    """
    for version in reversed(versions.list_versions(storage)):
        if version <= current.version:
            return None
        try:
            manifest = versions.read_manifest(storage, version)
        except (NotFound, CorruptIndex):
            continue
        if manifest.counts.passages and obstacle(plan, manifest) is None:
            return manifest
    return None


def obstacle(plan: Plan, manifest: Manifest) -> str | None:
    """Why nothing can be copied from a version; None if it can."""
    version, built, planned = manifest.version, manifest.encoder.model_dump(), plan.encoder.model_dump()
    # The same weights lie under different paths on different machines.
    # Learned terms are not copied, whatever made them, and token vectors are looked at below.
    names = (planned | built).keys() - {"model", "sparse", "late"}
    if other := [name for name in planned | built if name in names and planned.get(name) != built.get(name)]:
        return f"{version} was built with another encoder, which differs in {', '.join(other)}"
    if manifest.build.get("vectors_field") is not None:
        return f"the vectors of {version} came with its input, and those of this build are computed"
    reduced = LateInfo(dims=plan.late.late_dims, bits=plan.late.late_bits)
    if plan.stores_tokens and manifest.late != reduced:
        return f"{version} stores no token vectors that are reduced as --late-dims and --late-bits want it"
    if plan.stores_tokens and not plan.encoder.has_tokens_of(manifest.encoder):
        return f"the token vectors of {version} are those of another model"
    try:
        exactness = precision(manifest.index.kind, manifest.dim)
    except InvalidArgument:
        exactness = None
    if exactness is None:
        return f"{version} keeps approximations of its vectors only (index_kind {manifest.index.kind})"
    documents = f"/{layout.DOCUMENTS}"
    if manifest.build.get("chunk_characters") is not None and not all(
        any(file.path.endswith(documents) for file in entry.files) for entry in manifest.shards
    ):
        return f"{version} was built before versions of texts that are cut had a look-up of records"
    return None


def check_shard(plan: Plan, shard: int, storage: Storage) -> list[str]:
    """Compare the files that a build copies from one shard of its base with their checksums; return the problems."""
    if plan.base is None:
        return []
    try:
        manifest = versions.read_manifest(storage, plan.base)
    except NotFound as error:
        return [error.message]
    names = {layout.PASSAGES, layout.DOCUMENTS, layout.ORDER, layout.EXACT}
    if not any(file.path.endswith(f"/{layout.EXACT}") for file in manifest.shards[shard].files):
        names.add(layout.VECTORS)
    if plan.stores_tokens:
        names |= {layout.LATE_PROJECTION, layout.LATE_OFFSETS, layout.LATE_CODES}
    return _file_problems(storage, manifest, shard, names)


def damaged(version: str, problems: Sequence[str]) -> CorruptIndex:
    """What is said of a base with problems."""
    return CorruptIndex(
        f"vectors cannot be copied from {version}: {problems[0]}; restore it or activate another version, or build "
        "from the source with --reembed, which copies none"
    )


def _file_problems(storage: Storage, manifest: Manifest, shard: int, names: Container[str]) -> list[str]:
    """Compare files of one shard with their checksums; return the problems. names: without the folder."""
    folder = layout.version_dir(manifest.version)
    files = (file for file in manifest.shards[shard].files if file.path.partition("/")[2] in names)
    problems = (versions.file_problem(storage, f"{folder}/{file.path}", file) for file in files)
    return [problem for problem in problems if problem]
