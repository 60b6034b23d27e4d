"""`shoal eval`: how good the answers are."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shoal.cli.installation import require_evaluation
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import console, print_json
from shoal.settings import EvaluateSettings, RecommendSettings

if TYPE_CHECKING:
    from shoal.evaluation.evaluate import Outcome
    from shoal.evaluation.recommend import Recommendation

app = typer.Typer()


@settings_command(app, RecommendSettings, "eval")
def evaluate(settings: RecommendSettings, as_json: AsJson = False) -> None:
    """Ask judged queries in every mode, with and without reranking, and measure the answers."""
    require_evaluation()
    if settings.recommend:
        from shoal.evaluation.recommend import recommend

        show_recommendation(recommend(settings, _watched), as_json)
        return
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


def show_recommendation(recommendation: "Recommendation", as_json: bool) -> None:
    """Print what ranks best, and the options that serve it."""
    from shoal.evaluation import report

    if as_json:
        print_json(recommendation.to_json())
    else:
        console().print(report.recommendation_table(recommendation))


def _watched(items: Iterable[str], what: str) -> Iterable[str]:
    """Show on a terminal how far a loop is."""
    from rich.console import Console
    from rich.progress import track

    return track(
        items, what, console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal
    )
