"""Vector indexes of one shard. One kind is one file here; the file name is the value of the `index_kind` setting.

A kind module defines the functions of `IndexKind`. A setting that names no file is taken as a FAISS factory string and
handled by `factory.py`. A module whose name begins with an underscore is shared by kinds and is none itself.
"""

import importlib
import pkgutil
from typing import cast

from shoal.errors import InvalidArgument
from shoal.indexes._contract import Effort, IndexKind, Precision, ShardIndex, exact_path

__all__ = [
    "Effort",
    "IndexKind",
    "Precision",
    "ShardIndex",
    "check",
    "check_gpus",
    "exact_path",
    "gives_vectors",
    "index_kind",
    "kinds",
    "precision",
    "search_on_gpu",
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


def check_gpus(name: str, gpus: float) -> None:
    """Raise InvalidArgument for a kind that is built on a GPU where there is none, or FAISS cannot use it.

    Args:
        gpus: Of the cluster or machine that builds.
    """
    if not index_kind(name).NEEDS_GPU:
        return
    from shoal.indexes import _gpu

    lack = "there is none here" if gpus < 1 else "" if _gpu.has_cuvs() else "the FAISS that is installed has no cuVS"
    if lack:
        raise InvalidArgument(
            f"index_kind: {name!r} is built on an NVIDIA GPU by FAISS with cuVS, and {lack}; take hnsw, a graph that "
            "CPUs build, or a machine with a GPU and pip install 'shoal[cuvs]'",
            param="index_kind",
        )


def precision(name: str, dim: int) -> Precision | None:
    """How exactly indexes of this kind and dimension keep each vector; None when only an approximation is left."""
    return index_kind(name).precision(name, dim)


def search_on_gpu(index: ShardIndex) -> ShardIndex:
    """Return the index with a copy on the GPU of this process, for searches without a selector.

    One whose kind FAISS does not search there in the same way comes back as it is. Raises InvalidArgument without a GPU
    or FAISS for it, and where its memory is full.
    """
    from shoal.indexes import _gpu

    return _gpu.search_on_gpu(index)


def gives_vectors(name: str, dim: int) -> bool:
    """Whether indexes of this kind and dimension can give vectors back, as all files of this folder can."""
    if name in kinds():
        return True
    from shoal.indexes import factory

    return factory.gives_vectors(name, dim)
