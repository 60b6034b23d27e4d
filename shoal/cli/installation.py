"""What is installed: the client alone, or one of the extras that build and serve."""

from importlib.util import find_spec

from shoal import evaluation
from shoal.errors import InvalidArgument

ENGINE = (
    "Stemmer",
    "bm25s",
    "faiss",
    "google.protobuf",
    "grpc",
    "numpy",
    "obstore",
    "pyarrow",
    "ray",
    "regex",
    "semantic_text_splitter",
    "sentence_transformers",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "yaml",
)
"""Modules that both `shoal[cpu]` and `shoal[gpu]` bring."""


def require_engine() -> None:
    """Raise InvalidArgument, with the remedy, unless everything that builds and serves is installed."""
    if missing := _missing():
        raise _lacking(missing)


def require_evaluation() -> None:
    """Raise InvalidArgument unless all that measures answers is installed; the remedy names both extras at once."""
    if missing := _missing():
        lacking = evaluation.missing_libraries()
        raise _lacking([*missing, *lacking], ",eval" if lacking else "")
    evaluation.require()


def _missing() -> list[str]:
    return [name for name in ENGINE if _is_missing(name)]


def _is_missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:  # not even the package that it lies in
        return True


def lacks_engine(error: ModuleNotFoundError) -> InvalidArgument | None:
    """Return the error with the remedy if a module could not be found because its extra is not installed, else None."""
    package = (error.name or "").partition(".")[0]
    name = next((name for name in ENGINE if name.partition(".")[0] == package), None)
    return _lacking([name]) if name is not None and _is_missing(name) else None


def _lacking(missing: list[str], more: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"this needs more than the client ({', '.join(missing)}): "
        f"pip install 'shoal[cpu{more}]', or 'shoal[gpu{more}]' on a machine with an NVIDIA GPU"
    )
