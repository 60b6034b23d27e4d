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
from jobs.train.training import train_on_ray
from shoal.cli.options import AsJson, option, settings_command
from shoal.errors import InvalidArgument
from shoal.settings import TrainSettings
from shoal.training.course import Course, plan_course

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@settings_command(app, TrainSettings)
def train_reranker(settings: TrainSettings, as_json: AsJson = False) -> None:
    """Train a reranker on judgements, for `shoal serve --reranker`; run again, it continues where it stopped."""
    reporter = Reporter(Console(file=sys.stderr if as_json else sys.stdout))
    if joins_cluster():
        _require_absolute(settings)
    course = plan_course(settings)
    told = course.finished()
    if told is None:
        course.begin()
        reporter.say("Mining hard negatives, then training; after a kill the same command continues.")
        with course.alone():
            told = _train(course, reporter)
    print_rows(reporter.console, f"Reranker {course.output}", _rows(told, course.output))
    if as_json:
        json.dump({"output": str(course.output), **told}, sys.stdout, ensure_ascii=False)
        sys.stdout.write("\n")


def _train(course: Course, reporter: Reporter) -> dict[str, Any]:
    if course.settings.workers > 1 or joins_cluster():
        with ray_session() as cluster:
            return train_on_ray(course, cluster, reporter)
    # Imported here: a cluster's driver needs no torch.
    from shoal.training.run import threads_of, train

    with reporter.stage("mine"):
        course.examples(threads_of(course.settings))
    with reporter.following("train") as follow:
        train(course, follow)
    return course.publish()


def _rows(told: dict[str, Any], output: Path) -> list[tuple[str, str]]:
    rows = [
        ("kind", f"{told['kind']}, from {told['base']}"),
        ("queries", f"{told['train_queries']:,}, and {told['dev_queries']:,} held out"),
        ("steps", f"{told['steps']:,}, best after {told['best_step']:,}"),
    ]
    if told["dev_ndcg_at_10"] is not None:
        rows.append(
            ("nDCG@10", f"{told['dev_ndcg_at_10']:.4f} held out, untrained {told['dev_ndcg_at_10_untrained']:.4f}")
        )
        if told["dev_ndcg_at_10"] <= told["dev_ndcg_at_10_untrained"]:
            rows.append(("", "no better than untrained: add judgements, or lower --learning-rate"))
    return [*rows, ("hours", f"{told['hours']:.2f}"), ("use", f"shoal serve --reranker {output}")]


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
