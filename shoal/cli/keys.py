"""`shoal keys`: make an API key."""

import os
from typing import Annotated

import typer

from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.output import console, print_json
from shoal.errors import InvalidArgument
from shoal.serving import keys

app = typer.Typer()


@app.command("keys")
def make(
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose key it is: for logs and metrics.")],
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="read: search. write: change passages too. admin: choose the active version too.",
        ),
    ] = "read",
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Most queries, such as 50/s or 600/min. Default: any number.")
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Index that the key is good for; may be given several times. Default: all."),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Bind the key to a namespace: whoever has it sees and changes its passages alone. Default: any.",
        ),
    ] = None,
    append: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Append the server's line to this file; then only the key is printed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and the line by which a server knows it (--api-keys-file, or the variable SHOAL_API_KEYS).

    The key is shown once and kept nowhere. Clients take it from the variable SHOAL_API_KEY.
    """
    with guard(as_json):
        key = keys.make()
        line = keys.line(key, name, scope, rate, index or (), namespace)
        if append is not None:
            _append(append, line)
        if as_json:
            print_json({"key": key, "line": line})
        elif append is not None:
            console().print(key, markup=False, highlight=False, soft_wrap=True)
        else:
            text = f"key, for the client:   {key}\nline, for the server:  {line}"
            console().print(text, markup=False, highlight=False, soft_wrap=True)


def _append(path: str, line: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            broken = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
            file.write(b"\n" * broken + line.encode() + b"\n")
    except OSError as error:
        raise InvalidArgument(
            f"cannot write to {path} ({error.strerror}); correct --append", param="--append"
        ) from None
