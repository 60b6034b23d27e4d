"""How good the answers are: judged queries asked in every mode, with and without stage two, measured and compared.

`dataset` reads queries and judgements, `asking` gets answers from a server or from an index root, `runs` keeps them in
TREC's format, `measures` judges them, `report` shows the outcome. Nothing here knows Ray.
"""

from importlib.util import find_spec

from shoal.errors import InvalidArgument

LIBRARIES = ("ir_measures", "matplotlib", "scipy")
"""Modules that the extra `eval` brings."""


def require() -> None:
    """Raise InvalidArgument unless the libraries of the extra `eval` are installed."""
    if missing := missing_libraries():
        raise InvalidArgument(f"evaluation needs {', '.join(missing)}: pip install 'shoal[eval]'")


def missing_libraries() -> list[str]:
    """Name the libraries of the extra `eval` that are not installed."""
    return [name for name in LIBRARIES if find_spec(name) is None]
