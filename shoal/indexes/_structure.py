"""What an index file of FAISS may hold: the classes that its kind is made of, and nothing that leads out of the file.

FAISS opens many more types than a build makes. Some of them name other files (`OnDiskInvertedLists`), others hold
numbers that a search takes for places in memory. Whoever can write an index root could have a server read there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from shoal.errors import CorruptIndex

_MOST_DIMENSIONS = 65_536
"""Dimensions of an index, at most: what an empty index takes in memory grows with them."""
_MOST_LISTS = 1 << 24
"""Lists of an index that a factory string may ask for, at most: an empty list takes some 50 bytes."""
_READ_BYTES = 2 << 30
"""Bytes that FAISS may reserve for an array, even if the file is smaller: it derives some tables."""
_LISTS = re.compile(r"(?:IVF|IMI\d+x)(\d+)")
"""Where a factory string says how many lists there are."""
_LEAVES = (faiss.IndexFlatCodes, faiss.IndexFastScan, faiss.AdditiveCoarseQuantizer)
"""Classes of FAISS that hold vectors or codes and no other index."""
_IN_MEMORY = ("ArrayInvertedLists", "ArrayInvertedListsPanorama", "BlockInvertedLists")
"""Classes of inverted lists that lie in the file of their index."""
_READ_AS = {"IndexFlatIP": "IndexFlat", "IndexFlatL2": "IndexFlat", "OPQMatrix": "LinearTransform"}
"""What FAISS reads under another name than the one under which it made it."""


def check_factory(name: str, dim: int) -> None:
    """Raise ValueError for a factory string whose empty index would fill the memory."""
    if not 1 <= dim <= _MOST_DIMENSIONS:
        raise ValueError(f"{dim} dimensions; from 1 to {_MOST_DIMENSIONS} are supported")
    for number in _LISTS.findall(name):
        lists = int(number) if len(number) < 10 else _MOST_LISTS + 1
        if lists > _MOST_LISTS:
            raise ValueError(f"more than {_MOST_LISTS} lists")


def read_limit(path: Path) -> int:
    """Bytes of one array that FAISS may reserve while it opens a file."""
    return max(_READ_BYTES, path.stat().st_size + 1)


def open_trained(trained: bytes) -> Any:
    """Open the trained, empty index of a build, which lay in the index root. Raises CorruptIndex for any other."""
    try:
        # An index may name another file; not even opened shall be one outside its own folder.
        index = faiss.deserialize_index(np.frombuffer(trained, dtype=np.uint8), faiss.IO_FLAG_ONDISK_SAME_DIR)
        if index.ntotal:
            raise ValueError(f"{index.ntotal} vectors where there should be none")
        structure(index)
        check_content(index)
    except (RuntimeError, ValueError) as error:
        raise CorruptIndex(
            f"the trained index in staging is none that a build has made ({error}); remove the build's staging folder"
        ) from error
    return index


def emptied(path: Path) -> bytes:
    """The trained index that the index in a file was filled from, serialised. Memory: the whole file.

    Raises CorruptIndex for a file that no build makes.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR)
        structure(index)
        check_content(index)
        index.reset()
        data: bytes = faiss.serialize_index(index).tobytes()
    except (RuntimeError, ValueError) as error:
        raise CorruptIndex(f"{path} is no index that a build has made ({error}); restore it") from error
    return data


def structure(index: Any) -> tuple[str, ...]:
    """Name the classes that an index is made of, from the outside in; equal for indexes of one factory string.

    Raises ValueError for a class that no build makes.
    """
    actual = faiss.downcast_index(index)  # which lives as long as the argument does
    parts = tuple(name for part in _parts(actual) for name in (*structure(part), ")"))
    transforms: tuple[str, ...] = ()
    if isinstance(actual, faiss.IndexPreTransform):
        chain = [faiss.downcast_VectorTransform(actual.chain.at(place)) for place in range(actual.chain.size())]
        transforms = tuple(_name(transform) for transform in chain)
    return (_name(actual), *transforms, *parts)


def check_content(index: Any) -> None:
    """Raise ValueError unless every part of an index has as many vectors as it says, and names no others.

    Reads the row numbers in inverted lists, 8 bytes for each vector.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        _check_chain(index)
    if isinstance(index, faiss.IndexIVF):
        _check_lists(index)
    for part in _parts(index):
        rows = index.nlist if isinstance(index, faiss.IndexIVF) else index.ntotal
        # Coarse quantizers that compute their centroids say how many there are, too.
        if not isinstance(index, faiss.Index2Layer) and part.ntotal != rows:
            raise ValueError(f"{part.ntotal} vectors where there should be {rows}")
        if not isinstance(index, faiss.IndexPreTransform) and part.d != index.d:
            raise ValueError(f"{part.d} dimensions within {index.d}")
        check_content(part)
    for name in ("sq", "pq", "rabitq"):
        if (quantizer := getattr(index, name, None)) is not None and getattr(quantizer, "d", index.d) != index.d:
            raise ValueError(f"codes of {quantizer.d} dimensions within {index.d}")
    if isinstance(index, faiss.IndexFlatCodes) and index.codes.size() != index.ntotal * index.code_size:
        raise ValueError(f"{index.codes.size()} bytes of codes for {index.ntotal} vectors")


def _parts(index: Any) -> Iterator[Any]:
    """The indexes within one. Raises ValueError for a class that no build makes."""
    if isinstance(index, faiss.IndexPreTransform):
        yield index.index
    elif isinstance(index, faiss.IndexRefine):
        yield index.base_index
        yield index.refine_index
    elif isinstance(index, faiss.IndexIVF):
        yield index.quantizer
    elif isinstance(index, faiss.IndexHNSW):
        yield index.storage
    elif isinstance(index, faiss.Index2Layer):
        yield index.q1.quantizer
    elif not isinstance(index, _LEAVES):
        raise ValueError(f"{_name(index)}, which no build makes")


def _check_chain(index: Any) -> None:
    dim = index.d
    for place in range(index.chain.size()):
        transform = index.chain.at(place)
        if transform.d_in != dim:
            raise ValueError(f"a transform of {transform.d_in} dimensions after {dim}")
        dim = transform.d_out
    if index.index.d != dim:
        raise ValueError(f"{index.index.d} dimensions after a transform to {dim}")


def _check_lists(index: Any) -> None:
    lists = faiss.downcast_InvertedLists(index.invlists)
    if type(lists).__name__ not in _IN_MEMORY:
        raise ValueError(f"{type(lists).__name__}, which may lie in another file")
    if not index.direct_map.no():
        raise ValueError("a map of its rows, which no build writes")
    if lists.nlist != index.nlist or lists.compute_ntotal() != index.ntotal:
        raise ValueError(
            f"{lists.compute_ntotal()} vectors in {lists.nlist} lists, not {index.ntotal} in {index.nlist}"
        )
    seen = np.zeros(index.ntotal, np.bool_)
    for number in range(lists.nlist):
        if size := lists.list_size(number):
            rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= len(seen):
                raise ValueError(f"a row beyond the {len(seen)} that there are")
            seen[rows] = True
    if not seen.all():
        raise ValueError("a row that stands twice")


def _name(part: Any) -> str:
    name = type(part).__name__
    return _READ_AS.get(name, name)
