"""`shoal eval`: how good the answers are."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shoal.cli.installation import require_evaluation
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import console, print_json
from shoal.settings import EvaluateSettings

if TYPE_CHECKING:
    from shoal.evaluation.evaluate import Outcome

app = typer.Typer()


@settings_command(app, EvaluateSettings, "eval")
def evaluate(settings: EvaluateSettings, as_json: AsJson = False) -> None:
    """Ask judged queries in every mode, with and without reranking, and measure the answers."""
    require_evaluation()
    from shoal.evaluation.evaluate import evaluate as run

    show(run(settings), settings, as_json)


def show(outcome: "Outcome", settings: EvaluateSettings, as_json: bool) -> None:
    """Print the outcome, and write the report if it is wanted."""
    from shoal.evaluation import report

    if settings.html:
        Path(settings.html).expanduser().write_text(report.page(outcome), encoding="utf-8")
    if as_json:
        print_json(outcome.to_json())
    else:
        terminal = console()
        terminal.print(report.table(outcome))
        if settings.html:
            terminal.print(f"report: {settings.html}", markup=False)
