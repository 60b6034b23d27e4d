"""A training that is killed, and one that several workers share: both end where an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.rerankers import load_reranker
from shoal.settings import RerankerSettings, TrainSettings
from shoal.training.run import train
from shoal.training.training_run import plan_training
from tests.support import tiny_models

ROOT = Path(__file__).parents[2]
STEPS = 30
TIMEOUT_S = 250.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
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
    run = plan_training(asked)
    run.begin()
    train(run)
    run.publish()
    return run.output


def start(asked: TrainSettings) -> subprocess.Popen[str]:
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
    out, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log
    told: dict[str, Any] = json.loads(out)
    return told


def reached(work: Path) -> int:
    return max((int(path.name.partition("-")[2]) for path in (work / "checkpoints").glob("step-*")), default=0)


def test_killed_and_resumed_it_ends_with_the_same_bits(folder: Path) -> None:
    expected = undisturbed(settings(folder, "undisturbed", dropout=0.1, lora_rank=2))
    asked = settings(folder, "killed", dropout=0.1, lora_rank=2)
    work = plan_training(asked).work
    for step in (1, 11):
        process = start(asked)
        while reached(work) < step and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert step <= reached(work) < STEPS
        assert not Path(asked.output).exists()
    told = finish(start(asked))
    assert told["steps"] == STEPS
    assert not work.exists()
    ours, theirs = (path / "model.safetensors" for path in (Path(asked.output), expected))
    assert ours.read_bytes() == theirs.read_bytes()
    curves = [json.loads((path / "learning_curve.json").read_bytes()) for path in (Path(asked.output), expected)]
    first, second = ([(row["step"], row["loss"], row["ndcg"]) for row in curve] for curve in curves)
    assert first == second
    again = finish(start(asked))  # there is nothing left to do
    assert again == told


def test_two_workers_on_ray_learn_what_one_learns(folder: Path) -> None:
    """A cross-encoder, whose queries share nothing: the sum of the workers' gradients is that of one worker."""
    # Rounding may decide which weights are the best on held-out queries, and grows from step to step.
    options: dict[str, Any] = {"kind": "cross_encoder", "dtype": "float32", "dev_share": 0, "max_steps": 10}
    expected = undisturbed(settings(folder, "alone", **options))
    told = finish(start(settings(folder, "shared", **options, workers=2)))
    assert told["steps"] == 10
    passages = [json.loads(line)["positive"] for line in (folder / "data" / "pairs.jsonl").read_text().splitlines()]
    alone, shared = (
        load_reranker(RerankerSettings(reranker=str(path), backend="torch", dtype="float32")).score(
            "the red otter", passages
        )
        for path in (expected, folder / "shared")
    )
    # The loss compares passages of one query, so what is added to all of them is left to rounding.
    np.testing.assert_allclose(shared - shared.mean(), alone - alone.mean(), atol=0.02 * float(np.ptp(alone)))
