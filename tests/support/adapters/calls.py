"""Calls of adapters, which run in environments of their own: prints what came of each, one JSON list a line.

Here stands only what needs nothing but Python: neither Shoal nor what tests need is installed there.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUERY = "black otter"
DOCUMENTS = ["a red fish", "a green heron", "the black otter sleeps", "an otter"]
BEST = [DOCUMENTS[2], DOCUMENTS[3]]
"""The best two for the query, by the reranker of the server."""
ENCODER, RERANKER, DIMENSION = "multilingual-e5-large", "bge-reranker-v2-m3", 64
"""Names of models that the server takes for its own, and the dimension of its vectors."""
WORKS = "works"


@dataclass(frozen=True)
class Server:
    """Where a server with an index `articles` is, which may be written to with the key; and the same without keys."""

    url: str
    key: str
    open_url: str


CALLS: list[tuple[str, str, str, Callable[[Server], Any]]] = []


def call(package: str, client: str, call: str) -> Callable[[Any], Any]:
    """Make a function one of CALLS; it may return the message that a person would see."""

    def add(function: Callable[[Server], Any]) -> Callable[[Server], Any]:
        CALLS.append((package, client, call, function))
        return function

    return add


def run() -> None:
    """Make all calls to the server that the command line names."""
    server = Server(*sys.argv[1:])
    for package, client, name, function in CALLS:
        outcome = function(server) or WORKS
        print(json.dumps([package, importlib.metadata.version(package), client, name, outcome]), flush=True)
