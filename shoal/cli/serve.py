"""`shoal serve`: the server in the foreground."""

import typer

from shoal.cli.application import become
from shoal.cli.options import AsJson, settings_command, to_arguments
from shoal.settings import RunSettings

app = typer.Typer()


@settings_command(app, RunSettings)
def serve(settings: RunSettings, as_json: AsJson = False) -> None:
    """Serve an index over HTTP, until Ctrl-C or SIGTERM.

    Prints one line `ready http://HOST:PORT` on stdout as soon as every shard can be searched.
    """
    become("serve.run", [*to_arguments(settings), *(["--json"] if as_json else [])])
