"""The manifest of an index version: the contract between build and serve. FORMAT.md is the specification."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout
from shoal.metadata import FieldType
from shoal.settings import LexicalSettings

FORMAT_VERSION = 1
"""The version of FORMAT.md that manifests are written in."""
LOG_FORMAT_VERSION = 2
"""That of manifests with `log`: a reader that does not know it would serve without what was written since."""


TEXT_FIELD = "text"
"""The field of a record that holds its text, unless a version says otherwise."""
MOST_DIMENSIONS = 65_536
"""Dimensions of a vector, at most."""
_MOST = 2**63 - 1
"""Greatest number of bytes, and of passages."""
_LONGEST_PATH = 1024
"""Characters of a file's path, at most."""

Bytes = Annotated[int, Field(ge=0, le=_MOST)]
"""A number of bytes."""
Passages = Annotated[int, Field(ge=0, le=_MOST)]
"""A number of passages, or of records."""
Dimensions = Annotated[int, Field(ge=1, le=MOST_DIMENSIONS)]
"""A number of dimensions."""


def _inside(path: str) -> str:
    """Return a path as it is. Raises ValueError unless it is relative, in its shortest form and leads nowhere else."""
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or {"", ".", ".."} & set(parts):
        raise ValueError(f"{path!r} is no path within the folder of a version")
    return path


class Record(BaseModel):
    """Base of everything inside a manifest. Unknown fields are refused: a newer writer must raise FORMAT_VERSION."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())


class FileEntry(Record):
    """One file of a version. `path` is relative to the version's folder."""

    path: Annotated[str, Field(max_length=_LONGEST_PATH), AfterValidator(_inside)]
    bytes: Bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ShardEntry(Record):
    """One shard: `count` passages, row i of passages.arrow belongs to vector i."""

    shard: Annotated[int, Field(ge=0)]
    count: Passages
    files: list[FileEntry]

    @model_validator(mode="after")
    def _in_its_folder(self) -> Self:
        folder = f"{layout.shard_name(self.shard)}/"
        if strangers := [file.path for file in self.files if not file.path.startswith(folder)]:
            raise ValueError(f"{strangers[0]} does not lie in the folder of shard {self.shard}")
        return self


class ShardInfo(Record):
    """What shard.json holds: enough to know what the folder is, should it ever be found alone."""

    format_version: int = FORMAT_VERSION
    shard: int
    count: int
    dim: int
    kind: str
    text_bytes: int
    """UTF-8 bytes of the texts, titles not counted."""

    def to_bytes(self) -> bytes:
        """Serialise canonically: equal shards are equal bytes."""
        return _canonical(self.model_dump(mode="json"))


class CurvePoint(Record):
    """What the index finds with some search parameters, over the sampled queries and the whole corpus."""

    search: str
    recall: float
    """Share of the exact ten nearest passages that it finds."""
    latency_ms: float
    """Median search time of one query in one shard during verification; machine dependent."""


class VectorIndexInfo(Record):
    """The vector index, and how good it was measured to be."""

    kind: str
    search: str
    """FAISS search parameters, such as `nprobe=16`; empty when the kind has none."""
    recall_at_10: float | None
    """Share of the exact ten nearest passages that the index finds, over the sampled queries; None if not measured."""
    latency_ms: float | None
    """Median search time of one query in one shard during verification; machine dependent."""
    curve: list[CurvePoint] = Field(default_factory=list)
    """Parameters that were tried, cheapest first, each with more recall than those before; none for an exact index."""

    def search_for(self, recall: float) -> str:
        """The cheapest search parameters that were measured to find this share of the ten nearest; "" for exact search.

        Raises InvalidArgument when none does, or nothing was measured.
        """
        if self.kind == "flat":
            return ""
        most = self.curve[-1].recall if self.curve else self.recall_at_10
        if most is None:
            raise InvalidArgument(
                "the recall of this version was not measured, so none can be asked for; build it with --verify-queries",
                param="recall",
            )
        if recall > most:
            raise InvalidArgument(
                f"recall should be at most {most:g}, the most that was measured for this version, not {recall:g}; "
                "the index kind flat is exact",
                param="recall",
            )
        return next((point.search for point in self.curve if point.recall >= recall), "")


class LexicalInfo(Record):
    """The lexical index: what a server needs to search it as it was built."""

    analyzer: str
    """Name of the rules that cut texts into terms."""
    language: str
    stopwords: bool
    k1: float
    b: float
    passages: int
    """Passages of the corpus, which every shard scores with."""
    mean_length: float
    """Terms of a passage, on average over the corpus."""

    @property
    def settings(self) -> LexicalSettings:
        """The settings that it was built with."""
        return LexicalSettings(
            lexical_language=self.language, lexical_stopwords=self.stopwords, lexical_k1=self.k1, lexical_b=self.b
        )

    @property
    def analyzer_digest(self) -> str:
        """SHA-256 over what has to be equal for two versions to cut a text into the same terms."""
        said = f"{self.analyzer} {self.language} {self.stopwords}"
        return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


class LateInfo(Record):
    """The stored token vectors: how they were reduced."""

    dims: Dimensions
    """Principal components that were kept."""
    bits: Literal[1, 2, 4, 8]
    """Bits of each."""


class Counts(Record):
    """Where every input record went: input = passages + duplicates + rejected, in records after chunking."""

    input: Passages
    passages: Passages
    duplicates: Passages
    rejected: Passages


class CorpusStatistics(Record):
    """Sizes of the indexed texts."""

    text_bytes: Bytes
    mean_text_bytes: float


class LogInfo(Record):
    """What a version has to do with the log of its root."""

    position: Annotated[int, Field(ge=1, le=_MOST)]
    """The version holds what was written up to this position; what comes behind is laid over it."""


class Manifest(Record):
    """Everything a reader needs to know of a version."""

    format_version: int = FORMAT_VERSION
    version: str
    plan: str
    """Hash of the plan: two versions with the same plan hold the same shards."""
    created_at: str
    """UTC, ISO 8601. FORMAT.md says what else differs between two builds of one plan."""
    encoder: Fingerprint
    dim: Dimensions
    metric: str = "cosine"
    index: VectorIndexInfo
    lexical: LexicalInfo | None = None
    """None when the version can be searched by vectors only."""
    late: LateInfo | None = None
    """None when the shards hold no token vectors."""
    shards: list[ShardEntry]
    files: list[FileEntry] = Field(default_factory=list)
    """Files beside the shards, such as rejected.jsonl."""
    counts: Counts
    statistics: CorpusStatistics
    fields: dict[str, FieldType | Literal["mixed"]] = Field(default_factory=dict)
    """Types of the metadata fields that filters know, by name: the columns of metadata.arrow, and the mixed ones."""
    build: dict[str, Any]
    """The settings of the build that decide the content of the index."""
    log: LogInfo | None = None
    """None when it holds nothing that was written to a served index, and the field is left out then."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if [entry.shard for entry in self.shards] != list(range(len(self.shards))):
            raise ValueError("the shards are not numbered from 0, each once")
        paths = [file.path for file in self.all_files()]
        if len(set(paths)) < len(paths):
            raise ValueError("a file is listed twice")
        if self.format_version != (FORMAT_VERSION if self.log is None else LOG_FORMAT_VERSION):
            raise ValueError("format_version is not that of a manifest with or without log")
        if self.lexical is not None:
            self.lexical.settings  # noqa: B018 (raises ValidationError, a ValueError)
        return self

    @property
    def complete_to(self) -> int:
        """The version holds what was written up to this position of the log; 0 for nothing."""
        return 0 if self.log is None else self.log.position

    @property
    def text_field(self) -> str:
        """The field of a record that holds its text, which is no metadata."""
        name = self.build.get("text_field")
        return name if isinstance(name, str) else TEXT_FIELD

    def all_files(self) -> list[FileEntry]:
        """Every file of the version except the manifest itself."""
        return [*self.files, *(file for shard in self.shards for file in shard.files)]

    def to_bytes(self) -> bytes:
        """Serialise canonically, with a checksum over everything else as the last line of the object."""
        body = self.model_dump(mode="json", exclude={"log"} if self.log is None else None)
        return _canonical({**body, "checksum": hashlib.sha256(_canonical(body)).hexdigest()})

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> "Manifest":
        """Read a manifest; `place` names it in errors.

        Raises CorruptIndex when a single byte differs from what `to_bytes` wrote, or the format is a newer one.
        """
        try:
            body = json.loads(data)
            checksum = body.pop("checksum")
            whole = data == _canonical({**body, "checksum": checksum})
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptIndex(
                f"{place} is not a manifest ({error}); restore the version or activate another one"
            ) from error
        if not whole or hashlib.sha256(_canonical(body)).hexdigest() != checksum:
            raise CorruptIndex(f"{place} does not match its own checksum; restore the version or activate another one")
        if body.get("format_version") not in (FORMAT_VERSION, LOG_FORMAT_VERSION):
            raise CorruptIndex(
                f"{place} has format version {body.get('format_version')}, this Shoal reads {FORMAT_VERSION} and "
                f"{LOG_FORMAT_VERSION}; read it with the Shoal that wrote it, or build again"
            )
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise CorruptIndex(f"{place} is not a valid manifest: {error}") from error


def _canonical(body: dict[str, Any]) -> bytes:
    """One field order, one spacing, one encoding: equal manifests are equal bytes, and a changed byte always shows."""
    ordered = {key: body[key] for key in sorted(body, key=lambda key: (key == "checksum", key))}
    return json.dumps(ordered, indent=1, ensure_ascii=False, sort_keys=False).encode() + b"\n"
