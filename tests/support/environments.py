"""Environments of their own for packages that tests need in other versions than theirs, or not beside them."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

INSTALL_S = 1200
"""Seconds that a test may take which installs packages: a registry may need minutes for those of a framework."""
installs = pytest.mark.timeout(INSTALL_S)
"""Mark of such a test."""
UNREACHABLE = ("Retrying", "Connection", "Timeout", "Temporary failure")
"""Words of pip where there is no package registry."""


def environment_of(folder: Path, *requirements: str) -> Path:
    """Install packages into a new environment in a folder; returns its Python. Skips where there is no registry."""
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-compile",
        *requirements,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return python


def run_in(python: Path, script: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a script with the Python of an environment, in the folder of the script; returns what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(python), str(script), *arguments],
        cwd=script.parent,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
