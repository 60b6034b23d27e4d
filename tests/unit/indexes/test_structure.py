"""Index files that no build has made, opened as a server opens them: who can write an index root can put them there."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.indexes import check, index_kind, kinds
from shoal.settings import IndexSettings

COUNT, DIM = 400, 16
VECTORS = np.random.default_rng(1).standard_normal((COUNT, DIM), dtype=np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
FACTORY_STRINGS = (
    "Flat", "SQ8", "SQfp16", "PQ4x4", "PQ4x4fs", "HNSW8", "HNSW8,SQ8", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ4x4np",
    "IVF4,PQ4x4fs", "IVF4_HNSW4,Flat", "IVF4(IVF2,Flat),Flat", "PCA8,IVF4,SQ8", "PCAR8,Flat", "RR16,IVF4,RaBitQ",
    "RaBitQ", "IVF4,SQ8,RFlat", "IVF4,SQ8,Refine(SQfp16)", "L2norm,Flat", "Pad32,Flat", "RQ2x4", "IVF4,RQ2x4",
    "IVF4,PQ4x4fs,RFlat",
)  # fmt: skip


def filled(name: str, vectors: np.ndarray = VECTORS) -> Any:
    index = faiss.index_factory(DIM, name, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(vectors)
    return index


def graph(metric: int = faiss.METRIC_INNER_PRODUCT) -> Any:
    index = faiss.IndexHNSWCagra(DIM, 32, metric)
    index.add(VECTORS)
    return index


def opened(index: Any, kind: str, path: Path, mmap: bool = True) -> Any:
    faiss.write_index(index, str(path))
    return index_kind(kind).open(path, IndexSettings(index_kind=kind), 1, mmap)


def built(kind: str, path: Path) -> Path:
    maker = index_kind(kind)
    trained = maker.train(VECTORS, IndexSettings(index_kind=kind), 1)
    maker.build(iter([VECTORS]), DIM, path, trained, 1)
    return path


@pytest.mark.parametrize("kind", [*kinds(), *FACTORY_STRINGS])
def test_what_a_build_makes_is_opened(kind: str, tmp_path: Path) -> None:
    path = built(kind, tmp_path / "vectors.faiss")
    for mmap in (True, False):
        index = index_kind(kind).open(path, IndexSettings(index_kind=kind), 1, mmap)
        assert (index.count, index.dim) == (COUNT, DIM)
        assert index.search(VECTORS[:3], 5)[1].max() < COUNT


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("folder", ["elsewhere", "beside"])
@pytest.mark.parametrize("kind", ["ivf", "IVF4,Flat"])
def test_lists_in_another_file_are_refused(folder: str, mmap: bool, kind: str, tmp_path: Path) -> None:
    """The bytes of any file that the server can read came back as vectors, by `include`."""
    for name in ("beside", "elsewhere"):
        (tmp_path / name).mkdir()
    secret = tmp_path / folder / "secret"
    secret.write_bytes(b"password" * 8192)
    index = filled("IVF4,Flat")
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists)
    lists.filename = str(secret)
    with pytest.raises(CorruptIndex, match=r"vectors\.faiss"):
        opened(index, kind, tmp_path / "beside" / "vectors.faiss", mmap)


@pytest.mark.parametrize("within", ["IVF4,Flat,RFlat", "PCA16,IVF4,Flat", "IVF4(IVF2,Flat),Flat"])
def test_lists_in_another_file_are_found_within_other_indexes(within: str, tmp_path: Path) -> None:
    index = filled(within)
    inner = faiss.extract_index_ivf(index)
    if "(" in within:
        inner = faiss.downcast_index(inner.quantizer)
    lists = faiss.OnDiskInvertedLists(inner.nlist, inner.code_size, str(tmp_path / "lists"))
    lists.merge_from_1(inner.invlists)
    inner.replace_invlists(lists)
    with pytest.raises(CorruptIndex, match=r"OnDiskInvertedLists, which may lie in another file"):
        opened(index, within, tmp_path / "vectors.faiss")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("flat", lambda: filled("SQ8")),
        ("flat", lambda: faiss.IndexIDMap(faiss.IndexFlatIP(DIM))),
        ("flat", lambda: faiss.IndexFlatL2(DIM)),
        ("hnsw", lambda: filled("IVF4,Flat")),
        ("hnsw", lambda: graph()),
        ("cagra", lambda: filled("HNSW32,Flat")),
        ("cagra", lambda: graph(faiss.METRIC_L2)),
        ("cagra", lambda: faiss.IndexHNSWCagra(DIM, 32, faiss.METRIC_INNER_PRODUCT, faiss.Float16)),
        ("ivf_sq8", lambda: filled("IVF4,Flat")),
        ("ivf", lambda: filled("PCA16,IVF4,Flat")),
        ("rabitq", lambda: filled("PCA16,IVF4,RaBitQ")),
        ("IVF4,Flat", lambda: filled("IVF4_HNSW4,Flat")),
        ("IDMap,Flat", lambda: faiss.IndexIDMap(faiss.IndexFlatIP(DIM))),
        ("MinMax,SQ8", lambda: filled("SQ8")),
        ("NSG8", lambda: faiss.IndexNSGFlat(DIM, 8, faiss.METRIC_INNER_PRODUCT)),
        ("no kind at all", lambda: filled("Flat")),
    ],
)
def test_only_what_the_kind_is_made_of_is_opened(kind: str, content: Any, tmp_path: Path) -> None:
    path = tmp_path / "vectors.faiss"
    with pytest.raises(CorruptIndex, match=r"vectors\.faiss"):
        opened(content(), kind, path)


def with_link(row: int) -> Any:
    index = graph()
    faiss.rev_swig_ptr(index.hnsw.neighbors.data(), 1)[0] = row
    return index


@pytest.mark.parametrize("row", [COUNT, -2, 2**31 - 1])
def test_links_to_vectors_that_are_not_there_are_refused(row: int, tmp_path: Path) -> None:
    with pytest.raises(CorruptIndex, match="restore it or activate another version"):
        opened(with_link(row), "cagra", tmp_path / "vectors.faiss")


@pytest.mark.parametrize("entries", [0, -5, 2**31 - 1])
def test_a_search_of_a_graph_starts_as_a_build_means_it_to(entries: int, tmp_path: Path) -> None:
    """The file says at how many vectors each search looks before it begins; with none it would find nothing."""
    index = graph()
    index.num_base_level_search_entrypoints = entries
    found = opened(index, "cagra", tmp_path / "vectors.faiss")
    _, rows = found.search(VECTORS[:20], 1)
    assert rows[:, 0].tolist() == list(range(20))


def lists_of(index: Any) -> Any:
    return faiss.downcast_InvertedLists(index.invlists)


def with_row(row: int) -> Any:
    index = filled("IVF4,Flat")
    rows = faiss.rev_swig_ptr(lists_of(index).get_ids(1), 1)
    rows[0] = row
    return index


def with_a_row_twice() -> Any:
    index = filled("IVF4,Flat")
    lists = lists_of(index)
    faiss.rev_swig_ptr(lists.get_ids(1), 1)[0] = faiss.rev_swig_ptr(lists.get_ids(2), 1)[0]
    return index


def with_other_total() -> Any:
    index = filled("IVF4,Flat")
    index.ntotal = COUNT + 1
    return index


def with_map() -> Any:
    index = filled("IVF4,Flat")
    index.make_direct_map()
    return index


def with_fewer_exact_vectors() -> Any:
    index = filled("IVF4,Flat,RFlat")
    index.refine_index.reset()
    index.refine_index.add(VECTORS[:7])
    return index


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        *(("IVF4,Flat", lambda row=row: with_row(row)) for row in (COUNT, -2, 2**40)),
        ("IVF4,Flat", with_a_row_twice),
        ("IVF4,Flat", with_other_total),
        ("IVF4,Flat", with_map),
        ("IVF4,Flat,RFlat", with_fewer_exact_vectors),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(kind: str, content: Any, tmp_path: Path) -> None:
    """Rows beyond the vectors would have them compared with whatever lies behind them in memory."""
    with pytest.raises(CorruptIndex, match="no index that a build has made"):
        opened(content(), kind, tmp_path / "vectors.faiss")


@pytest.mark.parametrize("kind", [f"IVF{2**25},Flat", "IVF99999999999,Flat", f"PCA8,IVF{2**25}_HNSW32,SQ8"])
def test_lists_that_fill_the_memory_are_refused_before_they_are_made(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="more than 16777216 lists"):
        check(kind, DIM)
    with pytest.raises(CorruptIndex, match="more than 16777216 lists"):
        opened(filled("IVF4,Flat"), kind, tmp_path / "vectors.faiss")


def test_a_build_adds_to_no_file_that_a_trained_index_in_the_root_names(tmp_path: Path) -> None:
    kind = index_kind("IVF4,Flat")
    index = faiss.index_factory(DIM, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists)
    for trained in (faiss.serialize_index(index).tobytes(), faiss.serialize_index(filled("IVF4,Flat")).tobytes(), b"x"):
        with pytest.raises(CorruptIndex, match="the trained index in staging"):
            kind.build(iter([VECTORS]), DIM, tmp_path / "vectors.faiss", trained, 1)
    assert not (tmp_path / "vectors.faiss").exists()
