"""Vectors from files, for commands that search by one."""

import json
from pathlib import Path
from typing import Any

from shoal.errors import InvalidArgument

OPTION = "--vector"
"""The option that names such a file."""
NUMPY_SUFFIX = ".npy"
"""What files are named that NumPy wrote; all others hold JSON."""


def read_vector_file(path: str) -> list[float]:
    """Return the one vector that a file holds: a list of numbers in JSON, or a NumPy array.

    Raises InvalidArgument for a file that cannot be read, or that holds something else.
    """
    try:
        content = _array(path) if path.endswith(NUMPY_SUFFIX) else json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read ({error.strerror})", param=OPTION) from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"{path} holds no vector ({error}); write a list of numbers in JSON, or an array as {NUMPY_SUFFIX}",
            param=OPTION,
        ) from None
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], list):
        (content,) = content
    if not isinstance(content, list) or not content or isinstance(content[0], list):
        raise InvalidArgument(f"{path} should hold one vector: a list of numbers", param=OPTION)
    return content


def _array(path: str) -> Any:
    try:
        import numpy as np
    except ImportError:
        raise InvalidArgument(
            f"{path} needs NumPy; install shoal[cpu], or write the vector as a list of numbers in JSON", param=OPTION
        ) from None
    return np.load(path, allow_pickle=False).astype(np.float64).tolist()
