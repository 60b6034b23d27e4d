"""Environments of their own for packages that tests need in other versions than theirs, or not beside them.

They are kept between runs, below SHOAL_TEST_ENVIRONMENTS or the folder for caches of the user, under a name that says
what was asked for: to install the packages of a framework takes minutes.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

INSTALL_S = 2400
"""Seconds that a test may take which installs packages: a registry may need many minutes for those of a framework."""
installs = pytest.mark.timeout(INSTALL_S)
"""Mark of such a test."""
UNREACHABLE = ("Retrying", "Connection", "Timeout", "Temporary failure")
"""Words of pip where there is no package registry."""


def environment_of(*requirements: str) -> Path:
    """Python of an environment with packages, which are installed if no run before has done it.

    Skips the test where there is no registry. Requirements without a version give what was the newest when they were
    installed.
    """
    root = _root()
    root.mkdir(parents=True, exist_ok=True)
    asked = "\n".join([sys.version, *sorted(requirements)])
    folder = root / hashlib.sha256(asked.encode()).hexdigest()[:16]
    whole, python = folder / "requirements.txt", folder / "bin" / "python"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was ended
            venv.EnvBuilder(symlinks=True).create(folder)
            _install(python, *requirements)
            whole.write_text(f"{asked}\n")
    return python


def _root() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SHOAL_TEST_ENVIRONMENTS") or caches / "shoal-tests" / "environments")


def _install(python: Path, *requirements: str) -> None:
    """Install with uv where it is on PATH, since pip computes for minutes where a framework has many dependencies."""
    uv = shutil.which("uv")
    own = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    command = own if uv is None else [uv, "pip", "install", "--quiet", "--python", str(python)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr


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
