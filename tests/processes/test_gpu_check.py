"""`cluster/gpu_check.sh` on a machine without a GPU: what it says there, and its rows over little data on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import gpu_check
from shoal.inference.placement import has_gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here: run cluster/gpu_check.sh")
def test_without_a_gpu_every_row_says_so() -> None:
    done = subprocess.run(
        [ROOT / "cluster/gpu_check.sh"], capture_output=True, text=True, env={"PYTHON": sys.executable, "PATH": "/bin"}
    )
    assert done.returncode == gpu_check.NO_GPU
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert lines == [[row, "none", "no GPU here"] for row in gpu_check.ROWS]


@pytest.mark.parametrize(
    "row", ["build Flat", "build ivf", "build ivf_sq8", "build cagra", "search flat", "search ivf"]
)
def test_rows_of_indexes_compute_what_they_claim(row: str) -> None:
    measured = gpu_check.try_row(row, gpu_check.Scale("cpu", vectors=1500, texts=8, passages=8))
    shares = [value for name, value in measured.items() if name.startswith(("recall", "share"))]
    assert shares
    assert min(shares) >= gpu_check.RECALL


def test_the_row_of_the_encoder_compares_it_with_float32() -> None:
    measured = gpu_check.try_row("encoder in bfloat16", gpu_check.Scale("cpu", vectors=8, texts=8, passages=8))
    assert measured["least cosine with float32 on the CPU"] >= gpu_check.SAME


def prints(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_an_ending_is_read_behind_what_libraries_print() -> None:
    for ending, said, shown in (
        ("measured", {"recall": 0.9, "build s": 2}, ("good", "recall 0.9, build s 2")),
        ("failed", "AssertionError: recall@10 is\n0.2", ("failed", "AssertionError: recall@10 is 0.2")),
        ("lacks", "FAISS has no cuVS", ("lacks", "FAISS has no cuVS")),
    ):
        line = json.dumps({ending: said})
        assert gpu_check.run_row(prints(f"print('noise'); print({line!r})"), 60) == shown


def test_a_row_whose_process_falls_has_failed() -> None:
    fallen = "import os, sys; print('CUDA error', file=sys.stderr, flush=True); os.abort()"
    assert gpu_check.run_row(prints(fallen), 60) == ("failed", "ended with -6: CUDA error")


def test_a_row_that_takes_too_long_is_stopped_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "STOP_S", 1.0)
    mark = tmp_path / "alive"
    inner = (
        f"import time, pathlib\nfor n in range(600): pathlib.Path({str(mark)!r}).write_text(str(n)); time.sleep(0.1)"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    ending, said = gpu_check.run_row(prints(outer), 3)
    assert (ending, said) == ("failed", "took longer than the 3 s that were left")
    before = mark.read_text() if mark.exists() else ""
    time.sleep(0.5)
    assert (mark.read_text() if mark.exists() else "") == before


def test_the_exit_code_says_whether_all_rows_are_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endings = {"build ivf": ("good", "recall 1.0"), "search ivf": ("lacks", "FAISS sees no GPU")}
    monkeypatch.setattr(gpu_check, "run_row", lambda command, within_s: endings[command[-1]])
    assert gpu_check.check(["build ivf"], []) == 0
    assert gpu_check.check(endings, []) == 1
    assert capsys.readouterr().out.count("| build ivf                | good   | recall 1.0 |") == 2


def test_rows_say_which_package_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.indexes import _gpu

    monkeypatch.setattr(_gpu, "has_gpu", lambda: False)
    assert "shoal[gpu]" in gpu_check.lack("search flat")
    monkeypatch.setattr(_gpu, "has_gpu", lambda: True)
    monkeypatch.setattr(_gpu, "has_cuvs", lambda: False)
    assert "shoal[cuvs]" in gpu_check.lack("build cagra")
    assert gpu_check.lack("search flat") == gpu_check.lack("encoder in bfloat16") == ""
