"""How good the answers are: judged queries asked in every mode, with and without stage two, measured and compared.

`dataset` reads queries and judgements, `asking` gets answers from a server or from an index root, `runs` keeps them in
TREC's format, `measures` judges them, `report` shows the outcome. Nothing here knows Ray.
"""

from importlib.util import find_spec

from shoal.errors import InvalidArgument


def require() -> None:
    """Raise InvalidArgument unless the libraries of the extra `eval` are installed."""
    if missing := [name for name in ("ir_measures", "matplotlib", "scipy") if find_spec(name) is None]:
        raise InvalidArgument(f"evaluation needs {', '.join(missing)}: pip install 'shoal[eval]'")
