"""What is installed: the client alone, or one of the extras that build and serve."""

import sys
from importlib.util import find_spec

from shoal.errors import InvalidArgument

ENGINE = (
    "Stemmer",
    "bm25s",
    "faiss",
    "numpy",
    "pyarrow",
    "ray",
    "regex",
    "semantic_text_splitter",
    "sentence_transformers",
    "threadpoolctl",
    "tokenizers",
    "torch",
)
"""Modules that both `shoal[cpu]` and `shoal[gpu]` bring."""


def require_engine() -> None:
    """Raise InvalidArgument, with the remedy, unless everything that builds and serves is installed."""
    if missing := [name for name in ENGINE if find_spec(name) is None]:
        raise _lacking(missing)


def lacks_engine(error: ModuleNotFoundError) -> InvalidArgument | None:
    """Return the error with the remedy if a module could not be found because its extra is not installed, else None."""
    name = (error.name or "").partition(".")[0]
    return _lacking([name]) if name in ENGINE and find_spec(name) is None else None


def check_program() -> None:
    """End a program that is started as `python -m PACKAGE.NAME` as `guard` does, if only the client is installed.

    For the packages of such programs to call when they are imported: the imports of the program itself would end in a
    stack trace. Does nothing when the package is imported by anything else.
    """
    if sys.argv[:1] == ["-m"]:  # while Python looks for the program
        from shoal.cli.errors import guard

        with guard("--json" in sys.argv):
            require_engine()


def _lacking(missing: list[str]) -> InvalidArgument:
    return InvalidArgument(
        f"this needs more than the client ({', '.join(missing)}): "
        "pip install 'shoal[cpu]', or 'shoal[gpu]' on a machine with an NVIDIA GPU"
    )
