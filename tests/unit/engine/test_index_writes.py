"""What an index in this process has written, it sees. The rest of its writes: tests/contract/test_writes.py."""

from pathlib import Path

import pytest

import shoal
from tests.support.closing import PATIENCE_S, SlowCopy
from tests.support.indexes import passages, publish
from tests.support.live import ENCODER


def test_a_search_after_a_write_has_seen_it(tmp_path: Path) -> None:
    publish(tmp_path / "index", "v1", passages(4), encoder=ENCODER, writable=True)
    with shoal.open(tmp_path / "index") as index:
        for number in range(10):
            index.upsert([{"id": "new", "text": f"quokka number {number}"}])
            (found,) = index.fetch(["new"]).passages
            assert found.text == f"quokka number {number}"
        index.update([{"id": "new", "metadata": {"rare": True}}])
        assert index.fetch(["new"]).passages[0].metadata == {"rare": True}
        index.delete(["new"])
        assert index.fetch(["new"]).missing == ["new"]


async def test_for_asyncio_too(tmp_path: Path) -> None:
    publish(tmp_path / "index", "v1", passages(4), encoder=ENCODER, writable=True)
    async with shoal.AsyncIndex(tmp_path / "index") as index:
        for number in range(10):
            await index.upsert([{"id": "new", "text": f"quokka number {number}"}])
            (found,) = (await index.fetch(["new"])).passages
            assert found.text == f"quokka number {number}"


def test_closing_waits_for_what_copies_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "index", "v1", passages(4), encoder=ENCODER, writable=True)
    copy = SlowCopy(tmp_path / "index", monkeypatch)
    with shoal.open(tmp_path / "index") as index:
        index.upsert([{"id": "new", "text": "a quokka"}])
        assert copy.begun.wait(PATIENCE_S)
    assert copy.ended.is_set()
