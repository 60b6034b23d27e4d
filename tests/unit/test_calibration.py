"""What `shoal plan --calibrate` measures, in small, and what it makes of it."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from shoal import calibration
from shoal.calibration import NEAREST, Tried, docstrings, fit
from shoal.capacity import KindCost


def test_the_costs_that_made_the_times_are_found() -> None:
    chance, fixed_us, exact_us, rows = np.random.default_rng(1), 30.0, 0.25, 50_000
    row_us = {"ivf_sq8": 0.03, "rabitq": 0.01}
    tried = {
        kind: [
            Tried(
                share=share, refine=refine,
                us=(fixed_us + us * share * rows + exact_us * refine * NEAREST) * chance.uniform(0.97, 1.03),
                recall=1 - 0.5 / (1 + 100 * share) - 0.3 / refine,
            )
            for share in (0.002, 0.008, 0.03, 0.12)
            for refine in (1, 2, 8, 32)
        ]
        for kind, us in row_us.items()
    }  # fmt: skip
    costs, found_us = fit(tried, fixed_us, rows)
    assert found_us == pytest.approx(exact_us, rel=0.1)
    for kind, us in row_us.items():
        assert costs[kind].row_us == pytest.approx(us, rel=0.1)
        recalls = [point.recall for point in costs[kind].points]
        assert recalls == sorted(set(recalls))
        assert recalls[-1] == max(one.recall for one in tried[kind])


def test_costs_are_never_less_than_nothing() -> None:
    costs, exact_us = fit({"ivf_sq8": [Tried(0.1, 1, 10.0, 0.9), Tried(0.2, 1, 9.0, 0.95)]}, 20.0, 1000)
    assert costs["ivf_sq8"].row_us > 0
    assert exact_us > 0


def test_every_machine_has_texts() -> None:
    texts = list(islice(docstrings(), 50))
    assert len(texts) == 50
    assert all(100 <= len(text) <= 1000 and "\n" not in text for text in texts)


def test_searches_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("flat", "ivf_sq8", "rabitq")
    for name, value in {"ROWS": 3000, "TRAINED_ON": 2000, "FEW": 100, "QUERIES": 10, "CHOICES": kinds}.items():
        monkeypatch.setattr(calibration, name, value)
    measured = calibration._vectors(tmp_path)
    costs = measured["kinds"]
    assert isinstance(costs, dict)
    assert sorted(costs) == sorted(kinds)
    for cost in costs.values():
        assert isinstance(cost, KindCost)
        assert cost.points[-1].recall > 0.8


def test_words_and_reads_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEXICAL_ROWS", (200, 800))
    monkeypatch.setattr(calibration, "FILE_BYTES", 4 * 2**20)
    words = calibration._words(tmp_path, list(islice(docstrings(), 100)))
    assert all(isinstance(value, float) and value > 0 for value in words.values())
    assert calibration._read_us(tmp_path / "file") > 0
