"""The ids of a shard in order."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from shoal.records import Passage
from shoal.shard.id_order import IdOrder
from shoal.shard.passages import PASSAGE_SCHEMA, Passages, to_batch

IDS = [f"doc-{number}" for number in range(300)] + ["a", "ab", "b", "Ä", "ä", "魚", "😀", "a\u0000b", "z" * 500, "doc"]


@pytest.fixture(scope="module", params=[1, 7, 4096])
def order(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> IdOrder:
    """In a file whose batches have so many rows, in no order."""
    path = tmp_path_factory.mktemp("shard") / "passages.arrow"
    ids = random.Random(3).sample(IDS, len(IDS))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer:
        for start in range(0, len(ids), request.param):
            writer.write_batch(to_batch([Passage(id_, f"text of {id_}") for id_ in ids[start : start + request.param]]))
    made = IdOrder(Passages(path))
    made.stored = ids  # type: ignore[attr-defined]
    return made


def test_an_id_has_its_row_and_what_is_not_there_has_none(order: IdOrder) -> None:
    stored = order.stored  # type: ignore[attr-defined]
    assert order.find(IDS) == [stored.index(id_) for id_ in IDS]
    assert order.find(["", "doc-", "doc-300", "zz", "\U0010ffff"]) == [-1] * 5
    assert order.find([]) == []
    assert order.is_ready


@pytest.mark.parametrize("prefix", ["", "doc", "doc-1", "doc-29", "a", "ä", "z", "nothing", "\U0010ffff"])
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_pages_hold_every_id_with_the_prefix_once_and_in_order(prefix: str, limit: int, order: IdOrder) -> None:
    expected = sorted(id_ for id_ in IDS if id_.startswith(prefix))
    assert expected == sorted(expected, key=str.encode)
    listed: list[str] = []
    after = None
    while page := order.list(prefix, after, limit):
        assert len(page) <= limit
        listed += page
        after = page[-1]
    assert listed == expected


def test_a_list_goes_on_after_an_id_that_is_gone(order: IdOrder) -> None:
    assert order.list("doc-29", "doc-295x", 10) == ["doc-296", "doc-297", "doc-298", "doc-299"]
    assert order.list("doc-29", "a", 1) == ["doc-29"]
    assert order.list("a", "b", 10) == []


def test_an_empty_shard_has_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "passages.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, PASSAGE_SCHEMA):
        pass
    order = IdOrder(Passages(path))
    assert order.find(["a"]) == [-1]
    assert order.list("", None, 10) == []
