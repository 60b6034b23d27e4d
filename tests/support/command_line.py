"""Runs the `shoal` command in this process."""

from pathlib import Path

from typer.testing import CliRunner, Result

import shoal.cli.server
from shoal.cli.main import app

CHECKOUT = Path(shoal.__file__).parents[1]


def run(*arguments: str, **variables: str) -> Result:
    environment = {"COLUMNS": "100", "SHOAL_URL": "", "SHOAL_INDEX": "", "TERM": "dumb", **variables}
    return CliRunner().invoke(app, list(arguments), env=environment)
