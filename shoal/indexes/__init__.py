"""Vector indexes of one shard. One kind is one file here; the file name is the value of the `index_kind` setting.

A kind module defines the functions of `IndexKind`. A setting that names no file is taken as a FAISS factory string and
handled by `factory.py`. A module whose name begins with an underscore is shared by kinds and is none itself.
"""

import importlib
import pkgutil
from typing import cast

from shoal.indexes._contract import Effort, IndexKind, Precision, ShardIndex, exact_path

__all__ = [
    "Effort",
    "IndexKind",
    "Precision",
    "ShardIndex",
    "check",
    "exact_path",
    "gives_vectors",
    "index_kind",
    "kinds",
    "precision",
]
_FACTORY = "factory"
"""The module that handles FAISS factory strings; it is no kind itself."""


def kinds() -> list[str]:
    """Names of the kinds that are files of this folder, sorted."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name != _FACTORY and not name.startswith("_"))


def index_kind(name: str) -> IndexKind:
    """Return the kind that a setting names: a module of this package or, for a FAISS factory string, `factory`.

    Whether FAISS understands a factory string depends on the dimension: `check` tells.
    """
    module = name if name in kinds() else _FACTORY
    return cast(IndexKind, importlib.import_module(f"{__name__}.{module}"))


def check(name: str, dim: int, search: str = "") -> None:
    """Raise InvalidArgument unless an index of this kind, dimension and search can be made. Needs no data."""
    index_kind(name).check(name, dim, search)


def precision(name: str, dim: int) -> Precision | None:
    """How exactly indexes of this kind and dimension keep each vector; None when only an approximation is left."""
    return index_kind(name).precision(name, dim)


def gives_vectors(name: str, dim: int) -> bool:
    """Whether indexes of this kind and dimension can give vectors back, as all files of this folder can."""
    if name in kinds():
        return True
    from shoal.indexes import factory

    return factory.gives_vectors(name, dim)
