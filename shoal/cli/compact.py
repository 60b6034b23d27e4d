"""`shoal compact`: what was written to an index while it was served becomes a version of it."""

from typing import TYPE_CHECKING

import typer

from shoal.cli.installation import require_engine
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import print_json, print_lines
from shoal.settings import CompactSettings

if TYPE_CHECKING:
    from shoal.index_root.log import Log
    from shoal.index_root.manifest import Manifest

app = typer.Typer()


def _due(settings: CompactSettings, manifest: "Manifest", log: "Log") -> str | None:
    """Why what was written is worth a compaction; None if it is not."""
    from shoal.indexing.backlog import Backlog

    backlog = Backlog()
    backlog.follow(manifest, log)
    return backlog.due(settings)


@settings_command(app, CompactSettings)
def compact(settings: CompactSettings, as_json: AsJson = False) -> None:
    """Make a version of the current one and of what was written since; nothing is embedded. Run again, it continues."""
    require_engine()
    from shoal.index_root import versions
    from shoal.index_root.log import Log
    from shoal.index_root.storage import Storage
    from shoal.indexing.compaction import compact as run_compaction
    from shoal.indexing.publish import reuse_of

    storage = Storage(settings.index)
    before = versions.current_manifest(storage)
    log = Log.open(storage)
    due = settings.if_due and _due(settings, before, log)
    manifest = run_compaction(settings, log) if due is not None else None
    done = manifest or before
    counts = reuse_of(done)
    if as_json:
        said = {"index": settings.index, "version": done.version, "compacted": manifest is not None}
        print_json({**said, "position": done.complete_to, "passages": done.counts.passages})
    elif due is None:
        print_lines(f"what was written since version {before.version} is not worth a compaction yet")
    elif manifest is None:
        print_lines(f"nothing was written since version {before.version}: there is nothing to compact")
    else:
        print_lines(
            f"version {done.version} holds all that was written up to position {done.complete_to}: "
            f"{done.counts.passages:,} passages, {counts['reused']:,} of {before.version}, {counts['embedded']:,} of "
            f"the log; {counts['removed']:,} were replaced or deleted"
        )
