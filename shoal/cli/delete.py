"""`shoal delete`: deletes passages of an index that is served, or of one in this process."""

import sys
from typing import Annotated

import typer

from shoal.cli.errors import guard
from shoal.cli.options import AsJson
from shoal.cli.output import print_json, print_lines
from shoal.cli.server import DEFAULT_URL, Filter, Namespace, Url, WrittenIndex, parsed_filter, unit_of_writes, writing
from shoal.errors import InvalidArgument

app = typer.Typer()


@app.command()
def delete(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of passages; - reads them from stdin, one a line.")
    ] = None,
    url: Url = DEFAULT_URL,
    index: WrittenIndex = None,
    filter: Filter = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every passage of the namespace.")] = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Delete passages: by their ids, those that fulfil a filter, or all. Where the index cuts texts, whole texts."""
    with guard(as_json):
        chosen = _chosen(ids)
        if (chosen is not None) + (filter is not None) + everything != 1:
            raise InvalidArgument("say what to delete in one way: ids, --filter or --all", param="ID")
        with writing(url, index) as target:
            unit = unit_of_writes(target.describe())
            if chosen is not None:
                summary = target.delete(chosen, namespace=namespace or "")
            else:
                conditions = None if filter is None else parsed_filter(filter)
                summary = target.delete(filter=conditions, all=everything, namespace=namespace or "")
        if as_json:
            print_json({"position": summary.position, "deleted": summary.deleted})
        else:
            print_lines(f"{summary.deleted:,} {unit} deleted; position {summary.position}")


def _chosen(ids: list[str] | None) -> list[str] | None:
    if ids == ["-"]:
        return [line for raw in sys.stdin if (line := raw.rstrip("\n"))]
    return ids or None
