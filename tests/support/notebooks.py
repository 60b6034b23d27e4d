"""Notebooks that are written from scripts in the percent format, and run cell by cell without a kernel."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
from typing import Any

MARK = re.compile(r"^# %%(?: \[(markdown)\])?$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell of a script: Python, or Markdown without the comment signs."""

    language: str
    source: str


def cells_of(script: str) -> list[Cell]:
    """Cut a script at its marks, `# %%` and `# %% [markdown]`."""
    head, *parts = MARK.split(script)
    assert not head.strip(), "a script begins with a cell"
    cells = []
    for language, source in zip(parts[::2], parts[1::2], strict=True):
        source = source.strip()
        if language:
            assert all(line.startswith("#") for line in source.splitlines()), source
            source = "\n".join(line.removeprefix("#").removeprefix(" ") for line in source.splitlines())
        cells.append(Cell(language or "python", source))
    return cells


def notebook_of(cells: list[Cell], outputs: dict[int, str]) -> str:
    """Write cells in the format of Jupyter's notebooks, version 4.5. outputs: what cells printed, by their places."""
    listed: list[dict[str, Any]] = []
    for place, cell in enumerate(cells):
        lines = cell.source.splitlines(keepends=True)
        if cell.language == "markdown":
            listed.append({"cell_type": "markdown", "id": f"cell-{place}", "metadata": {}, "source": lines})
            continue
        printed = outputs.get(place, "")
        stream = {"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}
        listed.append(
            {
                "cell_type": "code",
                "execution_count": None,
                "id": f"cell-{place}",
                "metadata": {},
                "outputs": [stream] if printed else [],
                "source": lines,
            }
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": listed, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def cells_in(notebook: str) -> list[Cell]:
    """Read the cells of a notebook."""
    languages = {"code": "python", "markdown": "markdown"}
    return [Cell(languages[cell["cell_type"]], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]


def run_cells(cells: list[Cell], names: dict[str, Any]) -> dict[int, str]:
    """Run the cells of Python, one after the other, over common names; return what each printed, by their places."""
    outputs = {}
    for place, cell in enumerate(cells):
        if cell.language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, f"<cell {place}>", "exec"), names)
        outputs[place] = printed.getvalue()
    return outputs
