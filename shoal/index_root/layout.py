"""Every path in an index root, declared once. All are relative to the root and use forward slashes."""

CURRENT = "CURRENT"
"""File that names the active version, and the one that a rollback returns to."""
VERSIONS = "versions"
"""Folder of the published versions, one folder each."""
STAGING = "staging"
"""Folder of the running builds, one folder each."""
REFUSALS = "refused"
"""Folder of what is said about published versions that their build did not make current."""


def version_dir(version: str) -> str:
    """Folder of one published version."""
    return f"{VERSIONS}/{version}"


def manifest(version: str) -> str:
    """The manifest: written last, never changed."""
    return f"{version_dir(version)}/manifest.json"


def signature(version: str) -> str:
    """The signature of the manifest, written before it; only where there is a key (`shoal.index_root.signatures`)."""
    return f"{version_dir(version)}/manifest.sig"


def rejected(version: str) -> str:
    """Rejected and duplicate records of the build, one JSON object a line."""
    return f"{version_dir(version)}/rejected.jsonl"


def report(version: str) -> str:
    """What the build says about its input: losses by reason, and what it left out of passages that it kept."""
    return f"{version_dir(version)}/report.json"


def corpus_terms_of(version: str) -> str:
    """Terms of the corpus of a version, and in how many passages each occurs."""
    return f"{version_dir(version)}/terms.arrow"


def refusal(version: str) -> str:
    """Why the build of a version did not make it current; removed when it becomes so."""
    return f"{REFUSALS}/{version}.json"


def shard_name(shard: int) -> str:
    """Name of a shard's folder."""
    return f"shard-{shard:05d}"


def shard_dir(version: str, shard: int) -> str:
    """Folder of one shard of a version."""
    return f"{version_dir(version)}/{shard_name(shard)}"


VECTORS = "vectors.faiss"
"""File of a shard: its vector index."""
EXACT = "vectors.npy"
"""File of a shard: its vectors in float16, only beside an index that compresses them."""
PASSAGES = "passages.arrow"
"""File of a shard: its passages; row i belongs to vector i."""
METADATA = "metadata.arrow"
"""File of a shard: metadata as typed columns for filters; row i belongs to vector i."""
LEXICAL = "lexical"
"""Folder of a shard: its lexical index."""
LEXICAL_TERMS = f"{LEXICAL}/terms.arrow"
"""File of a shard: the distinct terms of its passages, ascending."""
LEXICAL_OFFSETS = f"{LEXICAL}/offsets.npy"
"""File of a shard: where the passages of each term begin in the rows and scores, int64 (terms + 1,)."""
LEXICAL_ROWS = f"{LEXICAL}/rows.npy"
"""File of a shard: rows of the passages that hold a term, int32."""
LEXICAL_SCORES = f"{LEXICAL}/scores.npy"
"""File of a shard: BM25 scores of a term in these passages, float32."""
LEXICAL_LENGTHS = f"{LEXICAL}/lengths.npy"
"""File of a shard: terms of each passage, int32 (passages,)."""
LEXICAL_COUNTS = f"{LEXICAL}/counts.npy"
"""File of a shard: how often a passage holds a term, beside its row; uint16, or uint32 where that is not enough."""
SPARSE = "sparse"
"""Folder of a shard: the terms that a learned sparse model gives its passages."""
SPARSE_OFFSETS = f"{SPARSE}/offsets.npy"
"""File of a shard: where the passages of each term begin in the rows and weights, int64 (dimensions + 1,)."""
SPARSE_ROWS = f"{SPARSE}/rows.npy"
"""File of a shard: rows of the passages that have a term, int32, ascending within a term."""
SPARSE_WEIGHTS = f"{SPARSE}/weights.npy"
"""File of a shard: weights of a term in these passages, float16."""
LATE = "late"
"""Folder of a shard: the token vectors of its passages."""
LATE_PROJECTION = f"{LATE}/projection.npy"
"""File of a shard: what the tokens of a query are multiplied by, float32."""
LATE_OFFSETS = f"{LATE}/offsets.npy"
"""File of a shard: where the tokens of each passage begin in the codes, int64 (passages + 1,)."""
LATE_CODES = f"{LATE}/codes.npy"
"""File of a shard: the token vectors of its passages, reduced and rounded, uint8 (tokens, width)."""
DOCUMENTS = "documents.npy"
"""File of a shard: digests of the records that its passages come from, ascending, uint64 (passages,)."""
ORDER = "order.npy"
"""File of a shard: the row of each of these digests, int32 (passages,)."""
POSITIONS = "positions.npy"
"""File of a shard: position of the log at which each passage was written, int64 (passages,); only if one was."""
DELETED = "deleted.arrow"
"""File of a shard: records that were deleted while the index was served, and where; only if there are any."""
NAMESPACES = "namespaces.arrow"
"""File of a shard: its namespaces but the default one, and the rows of their passages; only if there are any."""
SHARD = "shard.json"
"""File of a shard: what it is, should it be found alone."""


def staging_dir(plan: str) -> str:
    """Folder of a running build, named by the hash of its plan."""
    return f"{STAGING}/{plan}"


def plan(plan_hash: str) -> str:
    """The plan of a running build."""
    return f"{staging_dir(plan_hash)}/plan.json"


def units_dir(plan_hash: str) -> str:
    """Folder of the committed units of a running build."""
    return f"{staging_dir(plan_hash)}/units"


def unit_data(plan_hash: str, unit: int) -> str:
    """Embedded passages of one unit: Arrow IPC, record batch s holds the rows of shard s."""
    return f"{units_dir(plan_hash)}/{unit:08d}.arrow"


def unit_commit(plan_hash: str, unit: int) -> str:
    """Commit record of one unit: written after its data, counts and rejected records inside."""
    return f"{units_dir(plan_hash)}/{unit:08d}.json"


def spool(plan_hash: str, file: int, piece: int) -> str:
    """One piece of a compressed input file, cut at record boundaries."""
    return f"{staging_dir(plan_hash)}/spool/{file:06d}-{piece:08d}.zst"


def spool_commit(plan_hash: str, file: int) -> str:
    """Commit record of one spooled file: how it was cut."""
    return f"{staging_dir(plan_hash)}/spool/{file:06d}.json"


def scratch(plan_hash: str) -> str:
    """Folder of files that a running build has not finished writing."""
    return f"{staging_dir(plan_hash)}/scratch"


def trained_index(plan_hash: str) -> str:
    """The trained, empty index that every shard starts from."""
    return f"{staging_dir(plan_hash)}/trained.faiss"


def codec(plan_hash: str) -> str:
    """How the token vectors of all shards are reduced, learned before anything is embedded."""
    return f"{staging_dir(plan_hash)}/codec.npz"


def last_writes(plan_hash: str) -> str:
    """The last write of each document of the log that a build carries over."""
    return f"{staging_dir(plan_hash)}/written.arrow"


def shard_terms(plan_hash: str, shard: int) -> str:
    """Terms of one shard, and in how many of its passages each occurs."""
    return f"{staging_dir(plan_hash)}/lexical/{shard:05d}.arrow"


def corpus_terms(plan_hash: str) -> str:
    """Terms of the whole corpus, and in how many passages each occurs."""
    return f"{staging_dir(plan_hash)}/lexical/corpus.arrow"


def shard_commit(plan_hash: str, shard: int) -> str:
    """Commit record of one indexed shard: its manifest entry, counts and recall sample."""
    return f"{staging_dir(plan_hash)}/shards/{shard:05d}.json"


def shard_duplicates(plan_hash: str, shard: int) -> str:
    """Duplicates of one indexed shard, one JSON object a line; written before its commit record."""
    return f"{staging_dir(plan_hash)}/shards/{shard:05d}.duplicates.jsonl"


LOG = "log"
"""Folder of what was written to a root while it was served."""
LOG_ENTRIES = "log/entries/"
"""Folder of the entries of the log, one file each; ends in a slash."""
LOG_SEGMENTS = "log/segments/"
"""Folder of copies of many consecutive entries in one file; ends in a slash."""
LOG_FLOORS = "log/floor/"
"""Folder of empty files whose names say up to which position entries may be gone; ends in a slash."""
LOG_PROBES = "log/probes/"
"""Folder of files by which the store is tried out, removed at once; ends in a slash."""
_POSITION_DIGITS = 20
"""Digits of a position in a name, so that names sort by it."""


def log_entry(position: int) -> str:
    """The entry of the log at a position, from 1; created once, never changed."""
    return f"{LOG_ENTRIES}{position:0{_POSITION_DIGITS}d}.arrow"


def log_segment(first: int, last: int) -> str:
    """A copy of the entries at these positions."""
    return f"{LOG_SEGMENTS}{first:0{_POSITION_DIGITS}d}-{last:0{_POSITION_DIGITS}d}.arrow"


def log_floor(position: int) -> str:
    """An empty file: entries up to this position may be gone."""
    return f"{LOG_FLOORS}{position:0{_POSITION_DIGITS}d}"
