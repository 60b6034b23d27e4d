"""What `shoal plan --calibrate` measures, in small, and what it makes of it."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from shoal.capacity import calibration, server_calls
from shoal.capacity.calibration import NEAREST, Tried, docstrings, fit
from shoal.capacity.constants import KindCost
from shoal.errors import InvalidArgument, ShoalError
from shoal.index_root.layout import shard_name
from shoal.system.processes import descendants


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
    monkeypatch.setattr(calibration, "_filesystem", lambda folder: "ext4")  # wherever this machine has its /tmp
    words = calibration._words(tmp_path, list(islice(docstrings(), 100)))
    assert all(isinstance(value, float) and value > 0 for value in words.values())
    assert calibration._read_us(tmp_path) > 0
    assert not list(tmp_path.glob("tmp*"))


def test_times_that_grow_with_nothing_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ROWS": 1000, "TRAINED_ON": 1000, "FEW": 100, "QUERIES": 3, "CHOICES": ("flat",)}.items():
        monkeypatch.setattr(calibration, name, value)
    monkeypatch.setattr(calibration, "fit", lambda tried, fixed_us, rows: ({}, 0.1))
    monkeypatch.setattr(calibration, "_search", lambda index, queries, search_params: (1e4 / index.count, None))
    kinds = calibration._vectors(tmp_path)["kinds"]
    assert isinstance(kinds, dict)
    assert kinds["flat"].row_us > 0


def test_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibration._filesystem(Path("/proc")) == "proc"
    monkeypatch.setattr(calibration, "_filesystem", lambda folder: "tmpfs")
    with pytest.raises(InvalidArgument, match=r"lies in memory.*--constants"):
        calibration._read_us(tmp_path)


Server = Callable[[str], AbstractContextManager[tuple[int, str]]]
SERVER = """
import json, subprocess, sys
from pathlib import Path
Path("asked.json").write_text(json.dumps(sys.argv[1:]))
{}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Makes a server of an application whose `serve.run` does what it is told."""
    monkeypatch.setattr(server_calls, "_free_port", lambda: 1)

    def make(body: str) -> AbstractContextManager[tuple[int, str]]:
        application = tmp_path / "application"
        (application / "serve").mkdir(parents=True)
        (application / "serve" / "__init__.py").touch()
        (application / "serve" / "run.py").write_text(SERVER.format(body))
        return server_calls._server({"PYTHONPATH": str(application)}, tmp_path / "index")

    return make


def test_the_server_that_is_measured_has_its_shards_in_processes_of_their_own(tmp_path: Path, server: Server) -> None:
    shard = f"[sys.executable, '-c', 'print(1, flush=True); input()', {shard_name(0)!r}]"
    body = (
        f"child = subprocess.Popen({shard}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\nchild.stdout.readline()\n"
    )
    with server(body + "print('ready here', flush=True)\nchild.wait()") as (pid, _):
        assert server_calls._memory(pid) > 2**20
    # It ran beside the index: nothing is written where the application lies, such as among installed packages.
    assert {path.name for path in (tmp_path / "application" / "serve").iterdir()} - {"__pycache__"} == {
        "__init__.py",
        "run.py",
    }
    asked = dict(word.removeprefix("--").split("=") for word in json.loads((tmp_path / "asked.json").read_text()))
    assert int(asked["retriever-replicas"]) == int(asked["encoder-replicas"]) == 1


def test_a_server_without_retrievers_is_an_error() -> None:
    with pytest.raises(ShoalError, match="no process below"):
        server_calls._memory(os.getpid())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('no index')", "could not be started: no index"),
        ("import signal; signal.pause()", "was not ready within"),
    ],
)
def test_a_server_that_does_not_start_is_ended(
    body: str, message: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "within" in message:
        monkeypatch.setattr(server_calls, "READY_S", 0.0)
        monkeypatch.setattr(server_calls, "STOP_S", 0.0)
    before = descendants(os.getpid())
    with pytest.raises(ShoalError, match=message), server(body):
        pass
    assert set(descendants(os.getpid())) <= set(before)


def test_a_server_that_ignores_the_request_to_stop_is_killed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_calls, "STOP_S", 0.1)
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    with server(deaf + "print('ready here', flush=True)\nwhile True: signal.pause()") as (pid, _):
        pass
    assert not Path(f"/proc/{pid}").exists()
