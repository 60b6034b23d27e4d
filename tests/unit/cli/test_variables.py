"""A misspelt variable is told, with the name that was meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.cli.variables import CHECKED, OTHERS, known_variables, misspelt

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SHOAL_INDEX_KIN", "SHOAL_INDEX_KIND"),
        ("SHOAL_INDX", "SHOAL_INDEX"),
        ("SHOAL_RERANKER_MAX_REPLICA", "SHOAL_RERANKER_MAX_REPLICAS"),
        ("SHOAL_LOGDIR", "SHOAL_LOG_DIR"),
        ("SHOAL_APIKEYS", "SHOAL_API_KEYS"),
        ("shoal_top_k", "SHOAL_TOP_K"),
    ],
)
def test_a_misspelt_variable_and_the_nearest_name(name: str, nearest: str) -> None:
    assert misspelt([name, "HOME", "SHOAL_TOP_N"]) == {name: nearest}


def test_variables_of_ours_and_of_others_are_none() -> None:
    assert misspelt(known_variables()) == {}
    assert misspelt(["SHOAL", "SHOAL_HOME_PAGE", "SHOALS_INDEX", "SHOAL_TEST_3f0e", "PATH"]) == {}


def test_every_variable_that_the_code_reads_is_known() -> None:
    read = set()
    for package in ("shoal", "serve", "jobs", "cluster", "tests", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            # environ.get("SHOAL_…"), environ["SHOAL_…"] and envvar="SHOAL_…"
            read |= set(re.findall(r"(?:environ(?:\.get)?[\[(]|envvar=)\"(SHOAL_\w+)\"", file.read_text()))
    assert set(OTHERS) & read
    assert {name for name in read if not name.startswith("SHOAL_TEST_")} <= known_variables()


@pytest.mark.parametrize(("marker", "warned"), [({}, True), ({CHECKED: "1"}, False)])
def test_a_command_warns_once_on_stderr(marker: dict[str, str], warned: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    environment |= {"SHOAL_INDX": "elsewhere", "PYTHONPATH": str(ROOT), **marker}
    command = [sys.executable, "-c", "from shoal.cli.main import main; main()", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith("shoal ")
    expected = "warning: nothing reads the variable SHOAL_INDX; did you mean SHOAL_INDEX?\n" if warned else ""
    assert done.stderr == expected
