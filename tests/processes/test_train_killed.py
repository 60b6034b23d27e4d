"""A training that is killed and started again ends where an undisturbed one does, in one process and without Ray."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from shoal.training.training_run import plan_training
from tests.support.trainings import STEPS, data_and_model, finish, settings, start, undisturbed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_and_model(tmp_path_factory.mktemp("training"))


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
