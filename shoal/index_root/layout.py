"""Every path in an index root, declared once. All are relative to the root and use forward slashes."""

CURRENT = "CURRENT"
VERSIONS = "versions"
STAGING = "staging"


def version_dir(version: str) -> str:
    """Folder of one published version."""
    return f"{VERSIONS}/{version}"


def manifest(version: str) -> str:
    """The manifest: written last, never changed."""
    return f"{version_dir(version)}/manifest.json"


def rejected(version: str) -> str:
    """Rejected and duplicate records of the build, one JSON object a line."""
    return f"{version_dir(version)}/rejected.jsonl"


def shard_name(shard: int) -> str:
    """Name of a shard's folder."""
    return f"shard-{shard:05d}"


def shard_dir(version: str, shard: int) -> str:
    """Folder of one shard of a version."""
    return f"{version_dir(version)}/{shard_name(shard)}"


VECTORS = "vectors.faiss"
EXACT = "vectors.npy"
PASSAGES = "passages.arrow"
METADATA = "metadata.arrow"
LEXICAL = "lexical"
LEXICAL_TERMS = f"{LEXICAL}/terms.arrow"
LEXICAL_OFFSETS = f"{LEXICAL}/offsets.npy"
LEXICAL_ROWS = f"{LEXICAL}/rows.npy"
LEXICAL_SCORES = f"{LEXICAL}/scores.npy"
LATE = "late"
LATE_PROJECTION = f"{LATE}/projection.npy"
LATE_OFFSETS = f"{LATE}/offsets.npy"
LATE_CODES = f"{LATE}/codes.npy"
SHARD = "shard.json"
"""File names within a shard's folder."""


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
