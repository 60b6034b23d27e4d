"""What every benchmark ends with: a table of figures against goals, and the same as JSON."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shoal.system.machine import describe


@dataclass(frozen=True)
class Figure:
    """One measured number. `goal` in words, `met` None when there is no goal."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


def report(title: str, figures: Sequence[Figure], output: Path | None = None) -> None:
    """Print the figures under a description of this machine; write {name: {value, goal, met, unit}} to `output`.

    Ends the program with exit code 1 if a goal was missed.
    """
    console = Console(width=120)
    console.print(f"{title}\n{machine()}", highlight=False)
    table = Table()
    for heading in ("figure", "value", "unit", "goal", "met"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for figure in figures:
        met = "" if figure.met is None else "yes" if figure.met else "NO"
        table.add_row(figure.name, _readable(figure.value), figure.unit, figure.goal, met)
    console.print(table)
    if output:
        rows = {
            figure.name: {key: value for key, value in asdict(figure).items() if key != "name"} for figure in figures
        }
        output.write_text(json.dumps(rows, indent=1) + "\n")
    if any(figure.met is False for figure in figures):
        sys.exit(1)


def tell(text: str | Sequence[Figure]) -> None:
    """Say on stderr how far a long benchmark is, or what it knows: if it is broken off, that remains."""
    lines = [text] if isinstance(text, str) else [f"{each.name}: {_readable(each.value)} {each.unit}" for each in text]
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _readable(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> str:
    """Describe the machine that a number belongs to."""
    return f"{describe()}, Python {platform.python_version()}"
