"""Publish: the report of rejected records and the manifest, both safe to repeat."""

import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import numpy as np

from shoal.encoders import is_weightless
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.index_root import layout, versions
from shoal.index_root.manifest import (
    LOG_FORMAT_VERSION,
    CorpusStatistics,
    Counts,
    FileEntry,
    LexicalInfo,
    LogInfo,
    Manifest,
    VectorIndexInfo,
)
from shoal.index_root.storage import Storage
from shoal.indexing.commits import Duplicate, ShardCommit, Tally, read_unit_commit
from shoal.indexing.losses import BuildReport, LossCounter, count_left_out, location_of, read_report, unreadable_share
from shoal.indexing.plan import Plan
from shoal.indexing.tokens import describe_tokens
from shoal.metadata import FieldType, declared_types
from shoal.settings import PASSAGE_TOKENS


def rejected_records(plan: Plan, tally: Tally, storage: Storage) -> Iterator[dict[str, Any]]:
    """Rejected records in input order, then duplicates shard by shard, with their places in the whole input.

    Each is {"file", "line" (or "row"), "reason", "id" if there is one, "records" if it stands for more than one}.
    """
    units = plan.units
    files = np.fromiter((unit.file for unit in units), np.int64, len(units))
    before = np.concatenate([[0], np.cumsum(tally.lines)])

    def place(unit: int, record: int) -> dict[str, Any]:
        first_of_file = int(np.searchsorted(files, files[unit]))
        return plan.place(units[unit], record, int(before[unit] - before[first_of_file]))

    for unit in np.flatnonzero(tally.rejected).tolist():
        for bad in read_unit_commit(storage, plan.hash, unit).rejected:
            further = {"id": bad.id} if bad.id is not None else {}
            several = {"records": bad.records} if bad.records > 1 else {}
            yield {**place(unit, bad.record), "reason": bad.reason, **further, **several}
    for shard in np.flatnonzero(tally.shard_duplicates).tolist():
        with storage.open_input(layout.shard_duplicates(plan.hash, shard)) as source:
            for line in io.TextIOWrapper(source, encoding="utf-8"):
                duplicate = Duplicate.model_validate_json(line)
                first = place(duplicate.first_unit, duplicate.first_record)
                reason = f"duplicate id, first in {':'.join(str(value) for value in first.values())}"
                yield {**place(duplicate.unit, duplicate.record), "reason": reason, "id": duplicate.id}


def first_rejected(plan: Plan, tally: Tally, storage: Storage, count: int) -> list[dict[str, Any]]:
    """The first few records of the report, for people."""
    return list(islice(rejected_records(plan, tally, storage), count))


def describe(record: dict[str, Any]) -> str:
    """One record of the report as people read it: `corpus.jsonl:17: text is missing`."""
    return f"{location_of(record)}: {record['reason']}"


def write_reports(plan: Plan, tally: Tally, storage: Storage) -> list[FileEntry]:
    """Write what the build says about its input into the version's folder: each lost record, and all of them together.

    Returns both files; the lost records are read once.
    """
    losses = LossCounter()
    rejected = write_rejected(plan, tally, storage, losses)
    full_copied = _full_copied(plan, tally, storage)
    report = BuildReport(
        lost=losses.by_frequency(),
        unreadable=unreadable_share(plan),
        left_out=count_left_out(plan, tally),
        files_left_out=plan.left_out,
        documents=tally.documents,
        superseded=tally.superseded,
        full=tally.full,
        full_copied=full_copied,
        remarks=[*plan.remarks, *length_remarks(plan, tally, full_copied), *field_remarks(plan, tally)],
    )
    path = layout.report(plan.version)
    storage.write(path, report.model_dump_json(indent=1).encode() + b"\n")
    return [rejected, _entry(plan, storage, path)]


def write_rejected(plan: Plan, tally: Tally, storage: Storage, losses: LossCounter | None = None) -> FileEntry:
    """Write the report of rejected records and duplicates into the version's folder. losses: counts them meanwhile."""
    path = layout.rejected(plan.version)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        local = folder / "rejected.jsonl"
        with local.open("w", encoding="utf-8") as file:
            for record in rejected_records(plan, tally, storage):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                if losses is not None:
                    losses.add(record)
        storage.put(local, path)
    return _entry(plan, storage, path)


def write_corpus_terms(plan: Plan, storage: Storage) -> list[FileEntry]:
    """Copy the terms of the corpus from staging into the version's folder; nothing where no words are indexed.

    With them, searches of a version that documents come to know in how many passages a word occurs.
    """
    if not plan.lexical.lexical:
        return []
    path = layout.corpus_terms_of(plan.version)
    with storage.scratch(layout.scratch(plan.hash)) as folder:
        local = folder / "terms.arrow"
        with local.open("wb") as file:
            for chunk in storage.chunks(layout.corpus_terms(plan.hash)):
                file.write(chunk)
        storage.put(local, path)
    return [_entry(plan, storage, path)]


def _entry(plan: Plan, storage: Storage, path: str) -> FileEntry:
    """The manifest's entry of a file that lies in the version's folder."""
    sha256, size = storage.sha256(path)
    return FileEntry(path=path.removeprefix(f"{layout.version_dir(plan.version)}/"), bytes=size, sha256=sha256)


def require_passages(plan: Plan, tally: Tally, storage: Storage) -> None:
    """Raise InvalidArgument when the whole input gave no passage: an empty index is never published."""
    if tally.passages.any():
        return
    examples = "; ".join(describe(record) for record in first_rejected(plan, tally, storage, 3))
    total = int(tally.rejected.sum())
    reason = f"all {total} records were rejected ({examples})" if total else "the input holds no record"
    raise InvalidArgument(f"nothing to index: {reason}; nothing was published", param="source")


def field_types(plan: Plan, tally: Tally) -> dict[str, FieldType | Literal["mixed"]]:
    """Types of the metadata fields, once all units are embedded."""
    return tally.fields.types(declared_types(plan.source.metadata_types))


def field_remarks(plan: Plan, tally: Tally) -> list[str]:
    """Where filters can do less with a metadata field than its values promise, once all units are embedded."""
    remarks = tally.fields.remarks(declared_types(plan.source.metadata_types))
    return [f"metadata field {remark}" for remark in remarks]


def _full_copied(plan: Plan, tally: Tally, storage: Storage) -> int:
    """Most of the copied vectors that are of passages as long as the encoder reads; nobody has looked at which."""
    if plan.base is None:
        return 0
    try:
        base = read_report(storage, versions.read_manifest(storage, plan.base))
    except (NotFound, CorruptIndex):  # nothing but a remark depends on it
        return 0
    return min(base.full + base.full_copied, int(tally.reused.sum()))


def length_remarks(plan: Plan, tally: Tally, copied: int = 0) -> list[str]:
    """How many passages are longer than the encoder reads, and what to do about it; nothing where none is.

    copied: at most so many of those whose vectors were copied.
    """
    if not tally.full and not copied:
        return []
    # A token of English is some four characters; the title and the special tokens need room too.
    fitting = max(50, plan.encoder.max_length * 7 // 2 // 50 * 50)
    read = plan.encoder.passage_length
    plain = plan.encoder.passage_length < PASSAGE_TOKENS and not is_weightless(plan.encoder.model)
    windows = f", and --passage-tokens {PASSAGE_TOKENS} has more of them read" if plain else ""
    smaller = "a smaller --chunk-characters" if plan.source.chunk_characters else f"--chunk-characters {fitting}"
    passages, reused = int(tally.passages.sum()), int(tally.reused.sum())
    which = f"{tally.full:,} of {passages:,} passages"
    if reused:
        which = (
            f"{tally.full:,} of {passages - reused:,} passages that were embedded, and up to {copied:,} of {reused:,} "
            "whose vectors were copied,"
        )
    return [
        f"{which} are as long as the {read:,} tokens that the encoder reads, or "
        f"longer, and what stands behind these is not in their vectors; {smaller} cuts texts into passages that are "
        f"read whole{windows}"
    ]


def make_manifest(
    plan: Plan,
    tally: Tally,
    commits: Iterable[ShardCommit],
    index: VectorIndexInfo,
    files: list[FileEntry],
    lexical: LexicalInfo | None,
) -> Manifest:
    """Describe the version."""
    shards, text_bytes = [], 0
    for commit in commits:
        shards.append(commit.entry)
        text_bytes += commit.text_bytes
    passages, duplicates, rejected = (
        int(counts.sum()) for counts in (tally.shard_passages, tally.shard_duplicates, tally.rejected)
    )
    return Manifest(
        version=plan.version,
        plan=plan.content_hash,
        created_at=plan.created_at,
        encoder=plan.encoder,
        dim=plan.encoder.dim,
        index=index,
        lexical=lexical,
        late=describe_tokens(plan),
        shards=shards,
        files=files,
        counts=Counts(
            input=passages + duplicates + rejected, passages=passages, duplicates=duplicates, rejected=rejected
        ),
        statistics=CorpusStatistics(text_bytes=text_bytes, mean_text_bytes=round(text_bytes / max(passages, 1), 3)),
        fields=field_types(plan, tally),
        build={**plan.settings, **_reuse(plan, tally)},
        **_log(plan),
    )


def reuse_of(manifest: Manifest) -> dict[str, Any]:
    """What a version took over from an earlier one: `base` (its name, or None), `reused`, `embedded` and `removed`.

    reused, embedded: passages whose vectors were copied or computed. removed: passages of the base that are no more;
    None without a base.
    """
    base = manifest.build.get("base") or {}
    given = manifest.build.get("vectors_field") is not None
    return {
        "base": base.get("version"),
        "reused": base.get("reused", 0),
        "embedded": base.get("embedded", 0 if given else manifest.counts.passages),
        "removed": base.get("removed"),
    }


def _log(plan: Plan) -> dict[str, Any]:
    """What the version has to do with the log, for the manifest; nothing for one that holds nothing of it."""
    if plan.carried is None or not plan.carried.position:
        return {}
    return {"format_version": LOG_FORMAT_VERSION, "log": LogInfo(position=plan.carried.position)}


def _reuse(plan: Plan, tally: Tally) -> dict[str, Any]:
    """What was copied from an earlier version, for the manifest; nothing if the plan copies from none."""
    if plan.base is None:
        return {}
    passages, known, reused = (int(counts.sum()) for counts in (tally.shard_passages, tally.known, tally.reused))
    return {
        "base": {
            "version": plan.base,
            "reused": reused,
            "embedded": passages - reused,
            "removed": plan.base_passages - known,
        }
    }
