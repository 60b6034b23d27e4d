"""Where commands print: one JSON object for programs, text and tables for people."""

import json
import os
from typing import Any

from rich.console import Console

PLAIN_WIDTH = 100
"""Columns of a table that is not written to a terminal."""


def console() -> Console:
    """Return a console on stdout: as wide as the terminal; without one plain, and as wide as COLUMNS or 100."""
    terminal = Console(highlight=False)
    if terminal.is_terminal or "COLUMNS" in os.environ:
        return terminal
    return Console(highlight=False, width=PLAIN_WIDTH)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line of stdout."""
    print(json.dumps(value, ensure_ascii=False))  # noqa: T201
