"""The look-up of records of one shard, against a plain search."""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import CorruptIndex
from shoal.index_root import layout
from shoal.index_root.digests import document_digests
from shoal.records import Passage
from shoal.shard.documents import Documents, DocumentWriter
from shoal.shard.passages import to_batch


def test_digests_are_those_that_decide_the_shard() -> None:
    expected = [int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in ("a", "größe")]
    found = document_digests(["a", "größe"])
    assert found.dtype == np.uint64
    assert found.tolist() == expected
    assert document_digests([]).shape == (0,)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 12)))
def test_rows_agree_with_a_plain_search(stored: list[int], wanted: list[int]) -> None:
    documents = Documents.of_rows(np.array(stored, np.uint64))
    rows = documents.rows(np.array(wanted, np.uint64))
    assert rows.dtype == np.int64
    assert rows.tolist() == [row for row, number in enumerate(stored) if number in wanted]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_what_is_written_while_passages_stream_by_leads_back_to_them(tmp_path: Path, count: int) -> None:
    passages = [Passage(f"r{n // 3}#{n % 3 + 1}", "text") for n in range(count)]
    blocks = [(to_batch(passages[at : at + 70]), at) for at in range(0, count, 70)]
    writer = DocumentWriter(tmp_path, lambda identity: identity.partition("#")[0])
    assert [at for _, at in writer.tee(iter(blocks))] == [at for _, at in blocks]
    found = Documents.open(tmp_path / layout.DOCUMENTS, tmp_path / layout.ORDER, count)
    digests = np.load(tmp_path / layout.DOCUMENTS)
    assert (digests.dtype, np.load(tmp_path / layout.ORDER).dtype) == (np.dtype("<u8"), np.dtype("<i4"))
    assert (np.diff(digests.astype(object)) >= 0).all()
    for record in (0, 7, 99, 100):
        expected = [row for row in range(3 * record, 3 * record + 3) if row < count]
        assert found.rows(document_digests([f"r{record}"])).tolist() == expected


@pytest.mark.parametrize("row", [-1, 3])
def test_a_look_up_that_leads_out_of_its_shard_is_refused(row: int) -> None:
    digests = np.sort(document_digests("abc"))
    documents = Documents(digests, np.array([0, row, 2], np.int32))
    assert documents.rows(digests[[0, 2]]).tolist() == [0, 2]
    with pytest.raises(CorruptIndex, match=r"order\.npy leads out of its shard"):
        documents.rows(digests)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    Documents.of_rows(document_digests("abc")).save(tmp_path)
    paths = tmp_path / layout.DOCUMENTS, tmp_path / layout.ORDER
    with pytest.raises(CorruptIndex, match=r"documents\.npy and order\.npy do not lead to 4 passages"):
        Documents.open(*paths, 4)
    paths[1].write_bytes(b"no array")
    with pytest.raises(CorruptIndex, match=r"documents\.npy"):
        Documents.open(*paths, 3)
