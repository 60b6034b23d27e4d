"""Small trainings of rerankers, in this process or as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shoal.settings import TrainSettings
from shoal.training.run import train
from shoal.training.training_run import plan_training
from tests.support import tiny_models

ROOT = Path(__file__).parents[2]
STEPS = 30
TIMEOUT_S = 250.0


def data_and_model(folder: Path) -> Path:
    """Write an encoder and judgements into a folder, and return it."""
    tiny_models.save_bi_encoder(folder)
    tiny_models.write_pairs(folder / "data" / "pairs.jsonl", 60)
    return folder


def settings(folder: Path, output: str, **options: Any) -> TrainSettings:
    given: dict[str, Any] = {
        "data": str(folder / "data"),
        "output": str(folder / output),
        "encoder": str(folder / "model"),
        "device": "cpu",
        "threads": 1,
        "max_length": 32,
        "batch_queries": 8,
        "learning_rate": 0.01,
        "max_steps": STEPS,
        "epochs": 10,
        "checkpoint_s": 0,
    }
    return TrainSettings.model_validate(given | options)


def undisturbed(asked: TrainSettings) -> Path:
    """Train in this process; returns the folder of the reranker."""
    run = plan_training(asked)
    run.begin()
    train(run)
    run.publish()
    return run.output


def start(asked: TrainSettings) -> subprocess.Popen[str]:
    """Start the command that a user types."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.model_dump(exclude_unset=True).items()]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.train_reranker", *options, "--json"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for its end; returns what it told."""
    out, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log
    told: dict[str, Any] = json.loads(out)
    return told
