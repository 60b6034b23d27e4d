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
from shoal.training.progress import Progress
from shoal.training.training_run import TrainingRun

_RETRIES = 3
"""Times that a training goes on after its workers died."""
_LOOK_S = 0.5
"""Seconds between looks at the progress."""
_PROGRESS, _ERROR, _RAY = "progress.json", "error.pickle", "ray"


def train_on_ray(training_run: TrainingRun, cluster: Cluster, reporter: Reporter) -> dict[str, Any]:
    """Train with as many workers as the settings say, and return what is known of the training.

    Raises InvalidArgument when they do not fit a private cluster.
    """
    settings = training_run.settings
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
        run(_mine, training_run, cpus, num_cpus=cpus, num_gpus=gpus)
    with reporter.following("train") as follow:
        _fit(training_run, cpus, gpus, follow)
    return training_run.publish()


def _mine(training_run: TrainingRun, threads: int) -> None:
    training_run.examples(threads)


def _fit(training_run: TrainingRun, cpus: int, gpus: float, follow: Any) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config={"training_run": training_run, "threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=training_run.settings.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name="train",
            storage_path=str(training_run.work / _RAY),
            failure_config=FailureConfig(max_failures=_RETRIES),
        ),
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(training_run.work / _PROGRESS, ended, follow), daemon=True)
    watcher.start()
    try:
        (training_run.work / _ERROR).unlink(missing_ok=True)
        trainer.fit()
        raise_worker_error(training_run)
    finally:
        ended.set()
        watcher.join()


def raise_worker_error(training_run: TrainingRun) -> None:
    """Raise the error that a worker has written down, if one has."""
    path = training_run.work / _ERROR
    if path.exists():
        error: ShoalError = pickle.loads(path.read_bytes())  # noqa: S301 (our own workers wrote it)
        raise error


def _watch(path: Path, ended: threading.Event, follow: Any) -> None:
    """Tell what the first worker has written of its progress."""
    last = None
    while not ended.wait(_LOOK_S):
        try:
            progress = Progress(**json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue
        if progress != last:
            last = progress
            follow(progress)


def work(config: dict[str, Any]) -> None:
    """What every worker does."""
    from shoal.training.run import train

    training_run: TrainingRun = config["training_run"]
    path = training_run.work / _PROGRESS

    def report(progress: Progress) -> None:
        replace_file(path, json.dumps(asdict(progress)).encode())

    try:
        train(training_run.on_threads(config["threads"]), report)
    except ShoalError as error:
        # Written down, not raised: Ray would start the workers again, and the user's mistake would still be there.
        (training_run.work / _ERROR).write_bytes(pickle.dumps(error))
