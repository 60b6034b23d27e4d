"""Digests of the files of a converted model, kept beside them: whether it is still what was written."""

import hashlib
import json
from pathlib import Path

from shoal.errors import ModelUnavailable

NAME = "digests.json"
"""File that holds the SHA-256 of every other file of its folder, by name; not of what lies in folders there."""


def write_digests(folder: Path) -> None:
    """Write down what a finished folder holds."""
    (folder / NAME).write_text(json.dumps(_digests(folder), indent=1, sort_keys=True))


def is_whole(folder: Path) -> bool:
    """Whether a folder is there and every file in it is what was written down; reads all of it."""
    try:
        return bool(json.loads((folder / NAME).read_bytes()) == _digests(folder))
    except (OSError, ValueError):
        return False


def not_kept(folder: Path, error: OSError) -> ModelUnavailable:
    """The error of a converted model that cannot be kept in its folder."""
    return ModelUnavailable(
        f"the converted model cannot be kept in {folder.parent} ({error.strerror}); mend that, set model_cache_dir "
        "to another folder, or backend to torch, which needs none",
        param="model_cache_dir",
    )


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in folder.iterdir():
        if path.name != NAME and path.is_file():
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
