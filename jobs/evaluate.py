"""Evaluate an index or a server on a cluster. Run as `python -m jobs.evaluate --dataset DIR --index ROOT`.

The same as `shoal eval`, with the queries spread over several workers.
"""

from math import ceil
from typing import Annotated

import typer

from jobs.build import tasks
from jobs.session import ray_session, spread
from shoal.cli.eval import show
from shoal.cli.options import AsJson, settings_command
from shoal.evaluation import require
from shoal.settings import EvaluateSettings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@settings_command(app, EvaluateSettings)
def evaluate(
    settings: EvaluateSettings,
    workers: Annotated[int, typer.Option(metavar="INT", min=1, help="Tasks that ask a part of the queries each.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Ask judged queries in every mode, with and without reranking, and measure the answers."""
    require()
    from shoal.evaluation.evaluate import evaluate as run
    from shoal.evaluation.runs import Run, joined

    def ask(settings: EvaluateSettings, queries: dict[str, str]) -> list[Run]:
        items = list(queries.items())
        size = max(1, ceil(len(items) / workers))
        parts = [dict(items[start : start + size]) for start in range(0, len(items), size)]
        gpus = 1 if settings.device == "cuda" else 0
        calls = ((settings, part) for part in parts)
        found = spread(tasks.ask, calls, limit=workers, num_cpus=settings.threads, num_gpus=gpus)
        return [joined(runs) for runs in zip(*found, strict=True)]

    with ray_session():
        outcome = run(settings, ask)
    show(outcome, settings, as_json)


if __name__ == "__main__":
    app()
