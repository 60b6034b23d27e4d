"""Train a reranker on judgements. Run as `python -m jobs.train_reranker --data DIR --output DIR`.

Kill it at any moment and run the same command again: it continues, and ends with the same weights.
"""

import json
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from jobs.progress import Reporter
from jobs.report import print_rows
from jobs.session import joins_cluster, ray_session
from jobs.train.ray_trainer import train_on_ray
from shoal.cli.options import AsJson, option, settings_command
from shoal.errors import InvalidArgument
from shoal.settings import TrainSettings
from shoal.training.training_run import TrainingRun, plan_training

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@settings_command(app, TrainSettings)
def train_reranker(settings: TrainSettings, as_json: AsJson = False) -> None:
    """Train a reranker on judgements, for `shoal serve --reranker`; run again, it continues where it stopped."""
    reporter = Reporter(Console(file=sys.stderr if as_json else sys.stdout))
    if joins_cluster():
        _require_absolute(settings)
    training_run = plan_training(settings)
    result = training_run.finished()
    if result is None:
        training_run.begin()
        reporter.say("Mining hard negatives, then training; after a kill the same command continues.")
        with training_run.alone():
            result = _train(training_run, reporter)
    print_rows(reporter.console, f"Reranker {training_run.output}", _rows(result, training_run.output))
    if as_json:
        json.dump({"output": str(training_run.output), **result}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")


def _train(training_run: TrainingRun, reporter: Reporter) -> dict[str, Any]:
    if training_run.settings.workers > 1 or joins_cluster():
        with ray_session() as cluster:
            return train_on_ray(training_run, cluster, reporter)
    # Imported here: a cluster's driver needs no torch.
    from shoal.training.run import threads_of, train

    with reporter.stage("mine"):
        training_run.examples(threads_of(training_run.settings))
    with reporter.following("train") as follow:
        train(training_run, follow)
    return training_run.publish()


def _rows(result: dict[str, Any], output: Path) -> list[tuple[str, str]]:
    rows = [
        ("kind", f"{result['kind']}, from {result['base']}"),
        ("queries", f"{result['train_queries']:,}, and {result['dev_queries']:,} held out"),
        ("steps", f"{result['steps']:,}, best after {result['best_step']:,}"),
    ]
    if result["dev_ndcg_at_10"] is not None:
        rows.append(
            (
                "nDCG@10",
                f"{result['dev_ndcg_at_10']:.4f} held out, untrained {result['dev_ndcg_at_10_untrained']:.4f}",
            )
        )
        if result["dev_ndcg_at_10"] <= result["dev_ndcg_at_10_untrained"]:
            rows.append(("", "no better than untrained: add judgements, or lower --learning-rate"))
    return [*rows, ("hours", f"{result['hours']:.2f}"), ("use", f"shoal serve --reranker {output}")]


def _require_absolute(settings: TrainSettings) -> None:
    for field in ("data", "output"):
        if not Path(getattr(settings, field)).expanduser().is_absolute():
            raise InvalidArgument(
                f"{option(field)}: {getattr(settings, field)!r} is relative, which has no meaning on a cluster; give "
                "the whole path of a folder that all nodes share",
                param=option(field),
            )


if __name__ == "__main__":
    app()
