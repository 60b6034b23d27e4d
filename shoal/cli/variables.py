"""The environment variables that Shoal reads, and a word about those that look like misspelt ones."""

import os
from collections.abc import Iterable
from difflib import get_close_matches

from shoal.system.terminal import printable, say

OTHERS = (
    "SHOAL_API_KEY",
    "SHOAL_API_KEYS",
    "SHOAL_DATA",
    "SHOAL_ENCODER_KEY",
    "SHOAL_ENCODER_KEY_FILE",
    "SHOAL_FUZZ_REQUESTS",
    "SHOAL_GROUP_FOLDER",
    "SHOAL_INDEX",
    "SHOAL_LONG_TESTS",
    "SHOAL_RERANKER_KEY",
    "SHOAL_RERANKER_KEY_FILE",
    "SHOAL_SIGNING_KEY",
    "SHOAL_SIGNING_KEY_FILE",
    "SHOAL_TRACEBACK",
    "SHOAL_URL",
)
"""Variables that stand for no option: of the clients, of `shoal index`, of this package's own tests and benchmarks."""
CHECKED = "SHOAL_VARIABLES_CHECKED"
"""Variable by which a command tells the program that it turns into that it has looked at the others."""
_SIMILAR = 0.85
"""Least similarity, from 0 to 1, of a name to one of ours for it to count as misspelt."""


def variable(field: str) -> str:
    """Name of the environment variable of a field: `index_kind` is SHOAL_INDEX_KIND."""
    return f"SHOAL_{field.upper()}"


def known_variables() -> set[str]:
    """Name every variable that Shoal reads."""
    from shoal import settings  # here, because most commands have no such variable to look at

    models = [model for name in settings.__all__ if isinstance(model := getattr(settings, name), type)]
    fields = (field for model in models if issubclass(model, settings.Settings) for field in model.model_fields)
    return {*map(variable, fields), *OTHERS, CHECKED}


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Return the names that nothing reads although they resemble a variable of Shoal, each with the nearest one."""
    candidates = [name for name in names if name.upper().startswith("SHOAL_")]
    known = known_variables() if candidates else set()
    nearest = {}
    for name in sorted(set(candidates) - known):
        if similar := get_close_matches(name.upper(), sorted(known), n=1, cutoff=_SIMILAR):
            nearest[name] = similar[0]
    return nearest


def warn_of_misspelt() -> None:
    """Warn on stderr of each variable of this process that is misspelt, once for a command."""
    if os.environ.get(CHECKED):
        return
    for name, nearest in misspelt(os.environ).items():
        say(f"warning: nothing reads the variable {printable(name)}; did you mean {nearest}?")
