"""The `shoal` command. One command is one module of this package; it is imported when the command is run."""

import importlib
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from shoal import __version__
from shoal.cli.errors import run

COMMANDS = {
    "plan": "Work out what an index of a given size takes.",
    "build": "Build an index from a corpus and publish it.",
    "serve": "Serve an index over HTTP.",
    "search": "Ask a server one question and show both stages.",
    "compare": "Show the original and the reranked order side by side.",
    "upsert": "Write passages to an index that is served.",
    "delete": "Delete passages of an index that is served.",
    "eval": "Measure the answers to judged queries in every mode.",
    "compact": "Make a version of what was written to an index while it was served.",
    "index": "Look at the versions of an index, and choose the active one.",
    "keys": "Make an API key for a server.",
    "mcp": "Give an assistant tools to search with, by MCP.",
}
"""Every command, and the module and attribute that it is imported from when it is called."""


class Commands(TyperGroup):
    """Lists commands by name and help text alone, so that `shoal --help` is instant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Exchange the entry of the list for the real command, which takes the import of its module."""
        name, listed, rest = super().resolve_command(ctx, args)
        if listed is None:
            return name, None, rest
        return name, typer.main.get_command(importlib.import_module(f"shoal.cli.{name}").app), rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Shoal: self-hosted, two-stage semantic retrieval.",
    epilog="To begin: shoal build --source passages.jsonl --index ./index, then shoal serve --index ./index.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def main() -> NoReturn:
    """Run the command line."""
    run(app, "shoal")
