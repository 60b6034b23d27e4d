"""`shoal build`: the build job, on this machine or on a cluster."""

from typing import Annotated

import typer

from shoal.cli.application import become
from shoal.cli.options import AsJson, settings_command, to_arguments
from shoal.settings import BuildSettings

app = typer.Typer()


@settings_command(app, BuildSettings)
def build(
    settings: BuildSettings,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Submit to the Ray cluster with this dashboard, such as http://HEAD:8265, and follow the job. "
            "Default: run on the cluster that RAY_ADDRESS names, or else here, a large build on a private Ray.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build an index from a corpus and publish it. Run again after an interruption, it continues."""
    arguments = [*to_arguments(settings), *(["--json"] if as_json else [])]
    if address is None:
        become("jobs.build_index", arguments)
    from shoal.cli.cluster import follow  # here, because a local build needs no httpx

    raise typer.Exit(follow(address, "jobs.build_index", arguments, as_json))
