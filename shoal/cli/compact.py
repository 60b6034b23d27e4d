"""`shoal compact`: what was written to an index while it was served becomes a version of it."""

from typing import TYPE_CHECKING

import typer

from shoal.cli.errors import REFUSED
from shoal.cli.installation import require_engine
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import print_json, print_lines
from shoal.settings import CompactSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.index_root.log import Log
    from shoal.index_root.manifest import Manifest
    from shoal.index_root.storage import Storage
    from shoal.indexing.compaction_refusals import RefusedCompactions

app = typer.Typer()


def _due(settings: CompactSettings, manifest: "Manifest", log: "Log") -> str | None:
    """Why what was written is worth a compaction; None if it is not."""
    from shoal.indexing.backlog import Backlog

    backlog = Backlog()
    backlog.follow(manifest, log)
    return backlog.due(settings)


def _held_off(storage: "Storage", manifest: "Manifest") -> "RefusedCompactions | None":
    """A compaction that was refused so lately that the next one would be much the same."""
    from shoal.indexing.compaction_refusals import refused_compactions

    refused = refused_compactions(storage, manifest)
    return refused if refused is not None and refused.wait_s > 0 else None


def _judge(settings: CompactSettings) -> "Callable[[Manifest], list[str]] | None":
    """What a compacted version is held against; None without a gate."""
    if not settings.gate and not settings.sample_judgements:
        return None
    from shoal.evaluation.gate import judge_compaction, read_gate

    gate = read_gate(settings)
    return None if gate is None else lambda manifest: judge_compaction(settings, gate, manifest)


@settings_command(app, CompactSettings)
def compact(settings: CompactSettings, as_json: AsJson = False) -> None:
    """Make a version of the current one and of what was written since; nothing is embedded. Run again, it continues.

    Ends with 3 where the new version does not pass its gate: it is published and not made current, and what was written
    stays laid over the current version.
    """
    require_engine()
    from shoal.index_root import versions
    from shoal.index_root.log import Log
    from shoal.index_root.storage import Storage
    from shoal.indexing.compaction import compact as run_compaction

    storage = Storage(settings.index)
    before, judge = versions.current_manifest(storage), _judge(settings)
    log = Log.open(storage)
    due = settings.if_due and _due(settings, before, log)
    if due and judge is not None and (held := _held_off(storage, before)) is not None:
        _say_refused(settings, before, held.version, held.reasons, as_json, f"; tried again in {held.wait_s:,.0f} s")
        raise typer.Exit(REFUSED)
    manifest = run_compaction(settings, log, judge) if due is not None else None
    if manifest is not None and (refusal := versions.read_refusals(storage).get(manifest.version)) is not None:
        _say_refused(settings, before, manifest.version, refusal.reasons, as_json)
        raise typer.Exit(REFUSED)
    _say(settings, before, manifest, due is None, as_json)


def _say(
    settings: CompactSettings, before: "Manifest", manifest: "Manifest | None", is_spared: bool, as_json: bool
) -> None:
    """Say what was done. manifest: of the new version, None without one. is_spared: it is not worth it yet."""
    from shoal.indexing.publish import reuse_of

    done = manifest or before
    counts = reuse_of(done)
    if as_json:
        said = {"index": settings.index, "version": done.version, "compacted": manifest is not None}
        print_json({**said, "position": done.complete_to, "passages": done.counts.passages})
    elif is_spared:
        print_lines(f"what was written since version {before.version} is not worth a compaction yet")
    elif manifest is None:
        print_lines(f"nothing was written since version {before.version}: there is nothing to compact")
    else:
        print_lines(
            f"version {done.version} holds all that was written up to position {done.complete_to}: "
            f"{done.counts.passages:,} passages, {counts['reused']:,} of {before.version}, {counts['embedded']:,} of "
            f"the log; {counts['removed']:,} were replaced or deleted"
        )


def _say_refused(
    settings: CompactSettings, current: "Manifest", version: str, reasons: list[str], as_json: bool, then: str = ""
) -> None:
    """Say why a compacted version is not current."""
    if as_json:
        said = {"index": settings.index, "version": version, "compacted": True, "activated": False}
        print_json({**said, "position": current.complete_to, "passages": current.counts.passages, "refused": reasons})
    else:
        print_lines(
            f"version {version} did not pass its gate and is not current: {'; '.join(reasons)}; what was written stays "
            f"laid over {current.version}{then}"
        )
