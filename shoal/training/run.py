"""A training from its examples to the folder of its result, in the process of one worker."""

import shutil
from collections.abc import Callable

from shoal.settings import TrainSettings
from shoal.system.machine import usable_cores
from shoal.training import card, scorers
from shoal.training.course import RESULT, Course
from shoal.training.loop import Training
from shoal.training.progress import Progress
from shoal.training.workers import Workers


def threads_of(settings: TrainSettings) -> int:
    """CPU threads of one worker: what the settings say, or its share of the cores."""
    return settings.threads or max(1, usable_cores() // settings.workers)


def train(course: Course, report: Callable[[Progress], None] = lambda progress: None) -> None:
    """Train on the examples, wherever that had stopped before, and write the result; all workers call this."""
    examples = course.examples(threads_of(course.settings))
    training = Training(course.settings, examples, course.work, threads_of(course.settings))
    position = training.run(report)
    if not Workers().first:
        return
    result = course.work / RESULT
    shutil.rmtree(result, ignore_errors=True)
    scorers.save(training.scorer, result)
    told = card.summarise(course.settings, examples, position, course.data_digest) | {"plan": course.plan}
    card.write(result, told, position.curve)
