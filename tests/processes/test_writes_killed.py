"""A server that is killed under writes: what was acknowledged is there, once, and keys are known afterwards."""

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

import shoal
from shoal.errors import ShoalError
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.settings import LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.servers import Server, running
from tests.support.write_contract import SETTINGS

WRITERS = 3
OPTIONS = ["--local", *(f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items())]


class Writing:
    """Clients that write document after document until the server is gone."""

    def __init__(self, url: str) -> None:
        self.acknowledged: dict[str, int] = {}
        self.unanswered: dict[str, str] = {}
        self._url = url
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        assert self._enough.wait(seconds), "nothing was acknowledged"

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        with httpx.Client(base_url=self._url) as client:
            for number in range(100_000):
                id_ = f"w{writer}-{number}"
                try:
                    response = post(client, id_)
                except httpx.RequestError:
                    self.unanswered[id_] = f"key of {id_}"
                    return
                assert response.status_code == 200, response.text
                self.acknowledged[id_] = response.json()["position"]
                if len(self.acknowledged) >= 20:
                    self._enough.set()


def post(client: httpx.Client, id_: str) -> httpx.Response:
    body = {"passages": [{"id": id_, "text": f"written as {id_}", "if": {"absent": True}}]}
    return client.post("/v1/passages", json=body, headers={"idempotency-key": f"key of {id_}"}, timeout=60)


def written(root: Path) -> dict[str, list[int]]:
    """The positions at which the log has written each document; they follow each other from 1."""
    entries = list(Log.open(Storage(str(root))).read(0))
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    positions: dict[str, list[int]] = {}
    for entry in entries:
        for document in entry.documents:
            positions.setdefault(document.document, []).append(entry.position)
    return positions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "index", "v1", passages(20), lexical=LexicalSettings(), writable=True)
    return tmp_path / "index"


def killed_under_writes(folder: Path, root: Path) -> Writing:
    with running(folder, root, *OPTIONS) as server:
        server.wait_ready()
        writing = Writing(server.url)
        writing.wait(120)
        os.kill(server.process.pid, signal.SIGKILL)
        writing.join()
    return writing


def check_after(server: Server, root: Path, writing: Writing) -> None:
    with shoal.Client(server.url) as client, httpx.Client(base_url=server.url) as http:
        last = max(writing.acknowledged.values())
        client.search("written", min_position=last)
        for start in range(0, len(ids := sorted(writing.acknowledged)), 100):
            assert client.fetch(ids[start : start + 100]).missing == []
        for id_, position in writing.acknowledged.items():
            assert written_once(root, id_) == position
        for id_ in writing.unanswered:
            answers = [post(http, id_) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].json() == answers[1].json()
            assert answers[0].json()["written"] == 1
            assert written_once(root, id_) == answers[0].json()["position"]
        again = next(iter(writing.acknowledged))
        assert post(http, again).json() == {"position": writing.acknowledged[again], "written": 1, "unchanged": 0}


def written_once(root: Path, id_: str) -> int:
    (position,) = written(root)[id_]
    return position


def test_a_server_that_is_killed_has_what_it_acknowledged(tmp_path: Path, root: Path) -> None:
    writing = killed_under_writes(tmp_path, root)
    assert writing.unanswered
    with running(tmp_path, root, *OPTIONS) as server:
        server.wait_ready()
        check_after(server, root, writing)


def test_an_index_that_was_written_to_goes_on_without_a_server(tmp_path: Path, root: Path) -> None:
    with shoal.open(root, **SETTINGS) as index:
        index.upsert([{"id": "a", "text": "first"}])
    with shoal.open(root, **SETTINGS) as index:
        assert index.fetch(["a"]).passages[0].text == "first"
        with pytest.raises(ShoalError, match="it should be absent"):
            index.upsert([{"id": "a", "text": "second", "if": {"absent": True}}])
        assert index.delete(["a"]).deleted == 1
