"""A training on Ray: examples are mined by one task, then Ray Train's workers share the queries of every step.

Ray Train starts the workers, joins them by torch.distributed and starts them again when one dies; the training goes on
from its own checkpoints. Data and output must lie where all nodes reach them.
"""

import json
import math
import pickle
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.progress import Reporter
from jobs.session import Cluster, run
from shoal.errors import InvalidArgument, ShoalError
from shoal.system.atomic_files import replace_file
from shoal.training.course import Course
from shoal.training.progress import Progress

_RETRIES = 3
_LOOK_S = 0.5
_PROGRESS, _ERROR, _RAY = "progress.json", "error.pickle", "ray"


def train_on_ray(course: Course, cluster: Cluster, reporter: Reporter) -> dict[str, Any]:
    """Train with as many workers as the settings say, and return what is known of the training.

    Raises InvalidArgument when they do not fit a private cluster.
    """
    settings = course.settings
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 1 if cluster.gpus >= 1 and settings.device != "cpu" else 0
    cpus = settings.threads or max(1, math.floor(cluster.cpus / settings.workers))
    if cluster.private and (cpus * settings.workers > cluster.cpus or gpus * settings.workers > cluster.gpus):
        raise InvalidArgument(
            f"{settings.workers} workers of {cpus} CPUs and {gpus:g} GPUs do not fit this machine, which has "
            f"{cluster.cpus:g} and {cluster.gpus:g}; lower --workers, --threads or --gpus-per-worker",
            param="--workers",
        )
    with reporter.stage("mine"):
        run(_mine, course, cpus, num_cpus=cpus, num_gpus=gpus)
    with reporter.following("train") as follow:
        _fit(course, cpus, gpus, follow)
    return course.publish()


def _mine(course: Course, threads: int) -> None:
    course.examples(threads)


def _fit(course: Course, cpus: int, gpus: float, follow: Any) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config={"course": course, "threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=course.settings.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name="train",
            storage_path=str(course.work / _RAY),
            failure_config=FailureConfig(max_failures=_RETRIES),
        ),
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(course.work / _PROGRESS, ended, follow), daemon=True)
    watcher.start()
    try:
        (course.work / _ERROR).unlink(missing_ok=True)
        trainer.fit()
        raise_told(course)
    finally:
        ended.set()
        watcher.join()


def raise_told(course: Course) -> None:
    """Raise the error that a worker has told, if one has."""
    path = course.work / _ERROR
    if path.exists():
        error: ShoalError = pickle.loads(path.read_bytes())  # noqa: S301 (our own workers wrote it)
        raise error


def _watch(path: Path, ended: threading.Event, follow: Any) -> None:
    """Tell what the first worker has written of its progress."""
    told = None
    while not ended.wait(_LOOK_S):
        try:
            progress = Progress(**json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue
        if progress != told:
            told = progress
            follow(progress)


def work(config: dict[str, Any]) -> None:
    """What every worker does."""
    from shoal.training.run import train

    course: Course = config["course"]
    path = course.work / _PROGRESS

    def report(progress: Progress) -> None:
        replace_file(path, json.dumps(asdict(progress)).encode())

    try:
        train(course.on_threads(config["threads"]), report)
    except ShoalError as error:
        # Told, not raised: Ray would start the workers again, and the user's mistake would still be there.
        (course.work / _ERROR).write_bytes(pickle.dumps(error))
