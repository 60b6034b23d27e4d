"""Build an index: plan, embed, index, verify, publish. Run as `python -m jobs.build_index --source ... --index ...`.

Kill it at any moment and run the same command again: it continues, and what is published is always whole.
"""

import json
import sys
from pathlib import Path

import typer
from rich.console import Console

from jobs.build.driver import Builder
from jobs.build.estimate import estimate
from jobs.progress import Reporter
from jobs.report import Summary, print_rows
from jobs.session import joins_cluster, ray_session, this_process
from shoal.cli.errors import REFUSED, run
from shoal.cli.options import AsJson, settings_command
from shoal.encoders import is_weightless
from shoal.errors import InvalidArgument
from shoal.indexing.base import keep_late_encoder, keep_passage_tokens
from shoal.indexing.empty import keep_settings
from shoal.indexing.first_look import look_at_input
from shoal.indexing.in_process import fits_process
from shoal.inference.model_cache import require_model_cache
from shoal.settings import BuildSettings
from shoal.system.processes import stop_on_signals

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@settings_command(app, BuildSettings)
def build_index(settings: BuildSettings, as_json: AsJson = False) -> None:
    """Embed a corpus into shards and publish them as one index version; run again, it continues where it stopped."""
    stop_on_signals()
    # The streams as they are now: Ray's own messages are kept off stdout while a cluster is there.
    reporter = Reporter(Console(file=sys.stderr if as_json else sys.stdout))
    settings, kept = keep_settings(keep_late_encoder(keep_passage_tokens(settings)))
    if kept is not None:
        reporter.say(kept)
    # A mistyped path, a field of another name or a full disk is told at once, not after a cluster has started.
    if joins_cluster():
        _require_absolute(settings)
    elif not is_weightless(settings.encoder):
        require_model_cache("encoder", settings.encoder, settings)
    look = look_at_input(settings)
    for remark in look.remarks:
        reporter.say(remark)
    here = not joins_cluster() and fits_process(settings, look.bytes)
    with this_process(settings.threads) if here else ray_session() as cluster:
        builder = Builder(settings, cluster, reporter)
        outcome = estimate(builder) if settings.dry_run else builder.build()
    print_rows(reporter.console, outcome.title, outcome.rows())
    if as_json:
        json.dump(outcome.to_json(), sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    if isinstance(outcome, Summary) and outcome.refused:
        raise typer.Exit(REFUSED)


def _require_absolute(settings: BuildSettings) -> None:
    """A submitted job runs in a folder of Ray's own, where relative paths mean nothing to the one who typed them."""
    paths = {"--source": settings.source, "--index": settings.index}
    models = {
        "--encoder": settings.encoder,
        "--late-encoder": settings.late_encoder,
        "--sparse-encoder": settings.sparse_encoder,
    }
    for option, model in models.items():
        if model is not None and model.startswith("."):  # else it may be the name of a preset or on a hub
            paths[option] = model
    for demand in settings.gate or ():
        if demand.startswith("qrels="):
            paths["--gate"] = demand.partition("=")[2]
    for option, path in paths.items():
        if "://" not in path and not Path(path).expanduser().is_absolute():
            raise InvalidArgument(
                f"{option}: {path!r} is relative, which has no meaning on a cluster; give the whole path", param=option
            )


if __name__ == "__main__":
    run(app)
