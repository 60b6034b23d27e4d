"""One suite for every file of benchmarks/, run as its users run it: each explains itself, and one runs to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py"))
# One process for all of them: each takes seconds to import torch and faiss in one of its own.
HELP = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_module("benchmarks." + name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        else:
            code = "did not end"
    said[name] = [code, output.getvalue()]
print(json.dumps(said))
"""


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)


def test_every_benchmark_explains_itself() -> None:
    command = [sys.executable, "-c", HELP, *NAMES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said) == NAMES
    for name, (code, output) in said.items():
        assert code == 0, name
        assert f"benchmarks.{name}" in output, name
        assert "--json" in output, name


def test_a_data_set_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    done = benchmark("benchmarks.sharding", "--dataset", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert f"there is no {tmp_path}/nowhere/qrels/test.tsv; " in done.stderr
    assert "--dataset DIR" in done.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a simulation of four shards wrote, in virtual time."""
    folder = tmp_path_factory.mktemp("simulated")
    milliseconds = [4.0] * 90 + [5.0, 6, 7, 8, 9, 10, 12, 14, 16, 20]
    (folder / "ms").write_text("\n".join(map(str, milliseconds)))
    words = ["--widths", "4", "--queries", "120", "--latencies", f"{folder}/ms", "--json", f"{folder}/figures.json"]
    done = benchmark("benchmarks.simulate", "--output", str(folder), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_simulated_fan_out_shows_what_second_attempts_and_suspension_are_for(simulated: Path) -> None:
    figures = json.loads((simulated / "figures.json").read_text())
    hedged = figures["hedged, 4 shards: extra calls"]
    assert (hedged["unit"], hedged["goal"], hedged["met"]) == ("%", "<= 5.5", True)
    value = {name.replace(", 4 shards", ""): figure["value"] for name, figure in figures.items()}
    assert 0 < value["hedged: extra calls"] < 6
    assert value["hedged: p99"] < value["plain: p99"]
    assert value["plain: extra calls"] == 0
    assert value["plain: coverage"] == value["hedged: coverage"] == value["hung: coverage"] == 100
    assert value["silent: coverage"] == value["waiting: coverage"] == pytest.approx(100 * (1 - 0.5 / 4))
    assert value["silent: p50"] < 100 < value["waiting: p99"]
    assert value["waiting: p99"] == pytest.approx(7000, abs=10)  # retrieve_share of the deadline


def test_a_benchmark_draws_what_it_found(simulated: Path) -> None:
    assert (simulated / "simulate.png").read_bytes().startswith(b"\x89PNG")
