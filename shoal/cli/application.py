"""The application: jobs/ and serve/ lie beside shoal/, in a checkout or where pip installs, and run as processes."""

import os
import site
import sys
from pathlib import Path
from typing import NoReturn

import shoal
from shoal.cli.installation import require_engine
from shoal.cli.variables import CHECKED
from shoal.errors import InvalidArgument
from shoal.system.processes import hold_signals

PACKAGES = ("jobs", "serve", "shoal")
"""Top-level packages that builds and servers are made of."""


def application_folder() -> Path:
    """Return the folder that holds jobs/, serve/ and shoal/."""
    return Path(shoal.__file__).resolve().parents[1]


def search_path(folder: Path) -> dict[str, str]:
    """Return the variable by which other Pythons of this environment find the packages in `folder`, if they need one.

    They need none for a folder of installed packages. Ahead of the standard library, where PYTHONPATH puts it, such a
    folder could hide modules of it.
    """
    installed = (*site.getsitepackages(), site.getusersitepackages())
    if folder.resolve() in [Path(place).resolve() for place in installed]:
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def become(module: str, arguments: list[str]) -> NoReturn:
    """Turn this process into `python -m module`: signals, terminal and exit code are then the module's own.

    Raises InvalidArgument when only the client is installed, and in a folder that would hide the application.
    """
    require_engine()
    _require_names()
    environment = {**os.environ, **search_path(application_folder()), CHECKED: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    hold_signals()  # until the module has imported what it needs and can stop in good order
    # -P: relative paths are the user's, so we stay in the current folder, but a jobs/ or serve/ in it is not ours.
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)  # noqa: S606


def _require_names() -> None:
    """Raise InvalidArgument if the current folder has packages or modules of other people under our names.

    Ray puts the folder of whoever starts it first on the path of its workers, so they would import those.
    """
    here = Path.cwd()
    if here == application_folder():
        return
    for name in PACKAGES:
        for other in (here / name / "__init__.py", here / f"{name}.py"):
            if other.is_file():
                raise InvalidArgument(
                    f"{other} would be taken for the package `{name}` of Shoal; run this command in another folder"
                )
