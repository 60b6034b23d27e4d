"""What is installed: the client alone, or one of the extras that build and serve."""

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


def _lacking(missing: list[str]) -> InvalidArgument:
    return InvalidArgument(
        f"this needs more than the client ({', '.join(missing)}): "
        "pip install 'shoal[cpu]', or 'shoal[gpu]' on a machine with an NVIDIA GPU"
    )
