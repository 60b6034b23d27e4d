"""A training that several workers on Ray share ends where that of one worker does."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from shoal.rerankers import load_reranker
from shoal.settings import RerankerSettings
from tests.support.trainings import data_and_model, finish, settings, start, undisturbed


def test_two_workers_on_ray_learn_what_one_learns(tmp_path: Path) -> None:
    """A cross-encoder, whose queries share nothing: the sum of the workers' gradients is that of one worker."""
    folder = data_and_model(tmp_path)
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
