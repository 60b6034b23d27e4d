"""Where commands print: one JSON object for programs, text and tables for people."""

import json
import os
import re
from typing import Any

from rich.console import Console

from shoal.system.terminal import printable

PLAIN_WIDTH = 100
"""Columns of a table that is not written to a terminal."""

_CONTROLS = re.compile("[\x7f-\x9f]")
"""Characters that some terminals obey, as they do an escape."""


def console() -> Console:
    """Return a console on stdout: as wide as the terminal; without one plain, and as wide as COLUMNS or 100."""
    terminal = Console(highlight=False)
    if terminal.is_terminal or "COLUMNS" in os.environ:
        return terminal
    return Console(highlight=False, width=PLAIN_WIDTH)


def print_lines(*lines: str) -> None:
    """Print lines for people, all but the first indented, with nothing in them that commands a terminal.

    For words that come from a server or an index root.
    """
    console().print(*map(printable, lines), sep="\n  ", markup=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line of stdout. Of control codes JSON itself escapes only the first 32."""
    print(_CONTROLS.sub(lambda code: f"\\u{ord(code[0]):04x}", json.dumps(value, ensure_ascii=False)))  # noqa: T201
