"""A training from its examples to the folder of its result, in the process of one worker."""

import shutil
from collections.abc import Callable

from shoal.settings import TrainSettings
from shoal.system.machine import usable_cores
from shoal.training import card, scorers
from shoal.training.loop import Training
from shoal.training.progress import Progress
from shoal.training.training_run import RESULT, TrainingRun
from shoal.training.workers import Workers


def threads_of(settings: TrainSettings) -> int:
    """CPU threads of one worker: what the settings say, or its share of the cores."""
    return settings.threads or max(1, usable_cores() // settings.workers)


def train(training_run: TrainingRun, report: Callable[[Progress], None] = lambda progress: None) -> None:
    """Train on the examples, wherever that had stopped before, and write the result; all workers call this."""
    examples = training_run.examples(threads_of(training_run.settings))
    training = Training(training_run.settings, examples, training_run.work, threads_of(training_run.settings))
    position = training.run(report)
    if not Workers().first:
        return
    result = training_run.work / RESULT
    shutil.rmtree(result, ignore_errors=True)
    scorers.save(training.scorer, result)
    description = card.summarise(training_run.settings, examples, position, training_run.data_digest) | {
        "plan": training_run.plan
    }
    card.write(result, description, position.curve)
