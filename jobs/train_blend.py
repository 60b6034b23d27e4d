"""Fit a learned blend to judgements. Run as `python -m jobs.train_blend --index ROOT --dataset DIR --output FILE`.

It takes minutes, in this process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from jobs.progress import Reporter
from jobs.report import print_rows
from shoal.cli.options import AsJson, settings_command
from shoal.evaluation import require
from shoal.settings import BlendTrainingSettings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
NOT_BETTER = 3
"""Exit code where no blend ranks better than what orders answers without one, so that none is written."""


@settings_command(app, BlendTrainingSettings)
def train_blend(settings: BlendTrainingSettings, as_json: AsJson = False) -> None:
    """Fit a learned blend to judgements, for `shoal serve --blend`."""
    require()
    from shoal.training.blend_job import run

    reporter = Reporter(Console(file=sys.stderr if as_json else sys.stdout))
    result = run(settings, reporter.say)
    print_rows(reporter.console, f"Learned blend {settings.output}", _rows(result, settings.output))
    if as_json:
        json.dump({"output": settings.output, **result}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")
    if not result["written"]:
        raise typer.Exit(NOT_BETTER)


def _rows(result: dict[str, Any], output: str) -> list[tuple[str, str]]:
    rows = [("queries", f"{result['queries']:,} of {result['dataset']}")]
    if not result["written"]:
        return [*rows, ("written", "nothing: no blend ranks better; add judgements")]
    rows += [
        ("trees", f"{result['trees']:,} with the weight {result['weight']:g}, {Path(output).stat().st_size:,} bytes"),
        ("nDCG@10", f"{result['ndcg_at_10']:.4f} without it"),
        ("gain", f"{result['gain']:+.4f} in cross-validation (p {result['p_value']:.4f})"),
    ]
    if not result["is_sure"]:
        rows.append(("", "that may be chance: add judgements before you serve it"))
    return [*rows, ("use", f"shoal serve --blend {output}")]


if __name__ == "__main__":
    app()
