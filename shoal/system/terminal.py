"""Text for a terminal: what comes from outside without control codes, and numbers of bytes for people."""

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print text on stderr for whoever watches; where that cannot be written, such as on a full disk, go on without."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def printable(text: str) -> str:
    """Return text on one line, without characters that a terminal would obey."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in " ".join(text.split())
    )


def without_controls(text: str) -> str:
    """Return text with its lines, and without characters that a terminal would obey."""
    return "\n".join(printable(line) for line in text.split("\n"))


def format_bytes(count: float) -> str:
    """Bytes for people: 1536 is `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
