"""The application: jobs/ and serve/, which are not part of the installed package, run as processes."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import shoal
from shoal.errors import NotFound
from shoal.system.processes import hold_signals


def application_folder() -> Path:
    """Return the folder that holds jobs/ and serve/: the current one, or the checkout this package is installed from.

    Raises NotFound when it is neither.
    """
    for folder in (Path.cwd(), Path(shoal.__file__).resolve().parents[1]):
        if (folder / "jobs" / "build_index.py").is_file():
            return folder
    raise NotFound(
        "jobs/ and serve/ are not here: run this command in a checkout of Shoal, "
        "or install Shoal from one with `pip install --editable CHECKOUT`"
    )


def become(module: str, arguments: list[str]) -> NoReturn:
    """Turn this process into `python -m module`: signals, terminal and exit code are then the module's own."""
    folder = application_folder()
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    sys.stderr.flush()
    hold_signals()  # until the module has imported what it needs and can stop in good order
    # -P: relative paths are the user's, so we stay in the current folder, but a jobs/ or serve/ in it is not ours.
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)  # noqa: S606
