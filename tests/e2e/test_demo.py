"""The demo: once for real with weightless models, and stopped at every step with stand-ins for the commands it runs."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shoal.system.processes import descendants

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "cluster" / "demo.py"
# Runs the demo with a stand-in for each command: the one that STEP names says that it runs, and then waits.
DRIVER = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("demo", sys.argv.pop(1))
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)
stand_in, sys.argv[1:] = sys.argv[1], sys.argv[2:]
demo.command = lambda *words: [sys.executable, "-c", stand_in, *words]
demo.main()
"""
STAND_IN = """
import os, signal, sys, time
if os.environ["STEP"] in sys.argv:
    print("running", os.environ["STEP"], file=sys.stderr, flush=True)
    time.sleep(600)
if "serve" in sys.argv:
    print("ready http://127.0.0.1:1", flush=True)
    signal.pause()
"""


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "RAY_"))} | more


def test_it_builds_serves_asks_and_goes_on_serving_until_it_is_stopped(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(DEMO), "--keep", "--folder", str(tmp_path / "demo"), "--passages", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(SHOAL_ENCODER="hashing:64", SHOAL_RERANKER="overlap"),
    ) as demo:
        assert demo.stdout is not None
        printed = ""
        while "Ctrl-C stops it." not in printed:
            line = demo.stdout.readline()
            assert line, printed
            printed += line
        assert "200 passages in" in printed
        assert len(re.findall(r"\d of 5 moved", printed)) == 5
        [url] = re.findall(r"^ready (\S+)$", printed, re.MULTILINE)
        assert httpx.get(f"{url}/readyz").json() == {"ready": True}
        assert f"The page to ask it in a browser: {url}/\n" in printed
        assert "<title>Shoal</title>" in httpx.get(f"{url}/").text
        below = descendants(demo.pid)
        demo.terminate()
        assert demo.wait(60) == 0
        assert "Traceback" not in demo.stdout.read()
    assert len(below) > 5
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["jobs.docstring_corpus", "build", "serve", "compare"])
def test_it_can_be_stopped_at_every_step(step: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(DEMO), STAND_IN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(STEP=step),
    ) as demo:
        assert demo.stderr is not None
        assert demo.stderr.readline() == f"running {step}\n"
        below = descendants(demo.pid)
        demo.send_signal(number)
        assert demo.wait(30) == 130
        assert demo.stderr.read() == ""
    assert below
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []
