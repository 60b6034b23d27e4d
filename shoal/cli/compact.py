"""`shoal compact`: what was written to an index while it was served becomes a version of it."""

import typer

from shoal.cli.installation import require_engine
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import print_json, print_lines
from shoal.settings import CompactSettings

app = typer.Typer()


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
    manifest = run_compaction(settings, Log.open(storage))
    done = manifest or before
    counts = reuse_of(done)
    if as_json:
        said = {"index": settings.index, "version": done.version, "compacted": manifest is not None}
        print_json({**said, "position": done.complete_to, "passages": done.counts.passages})
    elif manifest is None:
        print_lines(f"nothing was written since version {before.version}: there is nothing to compact")
    else:
        print_lines(
            f"version {done.version} holds all that was written up to position {done.complete_to}: "
            f"{done.counts.passages:,} passages, {counts['reused']:,} of {before.version}, {counts['embedded']:,} of "
            f"the log; {counts['removed']:,} were replaced or deleted"
        )
