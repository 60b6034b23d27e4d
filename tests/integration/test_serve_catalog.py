"""`shoal serve` on Ray with a catalog: its indexes are made, asked, written to and removed in every ingress replica."""

import shutil
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.indexes import passages, publish
from tests.support.pinecone_catalog import ADMIN, BOUND, check_indexes_come_and_go, options
from tests.support.servers import Server, replicas, running, wait

ASKED = 16
"""Requests, each over a connection of its own, of which every one of two replicas answers some."""

CONTEXT = ssl.create_default_context()
"""Of connections in clear; made once, as each takes longer than a request."""


class Asker:
    """Asks a server over connections of their own, so that all of its replicas are asked."""

    def __init__(self, url: str) -> None:
        self.url = url

    def each(self, method: str, path: str, json: object = None, key: str = ADMIN) -> Iterator[httpx.Response]:
        """Ask the same again and again."""
        for _ in range(ASKED):
            yield self.one(method, path, json, key)

    def one(self, method: str, path: str, json: object = None, key: str = ADMIN) -> httpx.Response:
        """Ask once, whichever replica it is that answers."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, f"{self.url}{path}", json=json, headers=headers, timeout=60, verify=CONTEXT)

    def statuses(self, method: str, path: str, json: object = None, key: str = ADMIN) -> set[int]:
        """The statuses of the answers."""
        return {answer.status_code for answer in self.each(method, path, json, key)}

    def states(self, name: str) -> set[str]:
        """Whether the replicas have an index in memory."""
        listed = [each for answer in self.each("GET", "/v1/indexes") for each in answer.json()]
        return {each["state"] for each in listed if each["name"] == name}


def typed(name: str, value: str | list[str]) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}={value if isinstance(value, str) else ','.join(value)}"


@contextmanager
def serving(folder: Path, root: Path | None, *more: str) -> Iterator[tuple[Server, Asker]]:
    typed_options = [typed(name, value) for name, value in options(folder).items()]
    common = ("--reranker=overlap", "--proxy=ray", "--watch-s=0.5")
    with running(folder, root, *typed_options, *common, *more) as server:
        server.wait_ready()
        yield server, Asker(server.url)
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=60)
        server.assert_nothing_is_left(within_s=30)


def test_a_catalog_beside_an_index_is_one_for_all_replicas(tmp_path: Path) -> None:
    publish(tmp_path / "articles", "v1", passages(12, "of-articles"), shards=1)
    publish(tmp_path / "published" / "birds", "v1", passages(12, "of-birds"), shards=1)
    with serving(tmp_path, tmp_path / "articles", "--ingress-replicas=2", "--catalog-idle-s=2") as (server, asker):
        wait(lambda: len(replicas(server, "ingress")) == 2)  # it is ready with the first of them
        check_indexes_come_and_go(server.url, tmp_path / "catalog")
        wait(lambda: asker.statuses("POST", "/v1/indexes/vectors/search", {"vector": [1, 0, 0]}) == {404})

        made = asker.one("POST", "/v1/indexes", {"name": "vectors", "encoder": "hashing:32"})  # not those of before
        assert made.status_code == 201, made.text
        record = {"passages": [{"id": "w1", "text": "a walrus writes"}]}
        written = asker.one("POST", "/v1/indexes/vectors/passages", record, BOUND)
        assert written.status_code == 200, written.text
        asked = {"query": "walrus", "min_position": written.json()["position"]}
        for answer in asker.each("POST", "/v1/indexes/vectors/search", asked, BOUND):
            assert [result["id"] for result in answer.json()["results"]] == ["w1"], answer.text

        # One that is put there is cold, loaded by who asks first, and unloaded when nobody does.
        shutil.copytree(tmp_path / "published" / "birds", tmp_path / "catalog" / "birds")
        assert asker.states("birds") == {"unloaded"}
        for answer in asker.each("POST", "/v1/indexes/birds/search", {"query": "black otter"}):
            assert all(result["text"].endswith("of-birds") for result in answer.json()["results"]), answer.text
        assert asker.statuses("POST", "/v1/indexes/birds/search", {"query": "otter"}, BOUND) == {404}
        assert {each["name"] for each in asker.one("GET", "/v1/indexes").json()} == {
            "articles", "birds", "texts", "vectors",
        }  # fmt: skip
        wait(lambda: asker.states("birds") == {"unloaded"})
        answer = asker.one("POST", "/v1/search", {"query": "black otter"}).json()
        assert all(result["text"].endswith("of-articles") for result in answer["results"])


def test_a_catalog_alone_is_served_without_any_index(tmp_path: Path) -> None:
    with serving(tmp_path, None) as (_, asker):
        assert asker.one("GET", "/v1/indexes").json() == []
        assert "GET /v1/indexes" in asker.one("POST", "/v1/search", {"query": "otter"}).json()["message"]
        assert asker.one("POST", "/v1/indexes", {"name": "otters", "encoder": "hashing:32"}).status_code == 201
        record = {"passages": [{"id": "o1", "text": "an otter dives"}]}
        position = asker.one("POST", "/v1/indexes/otters/passages", record).json()["position"]
        asked = {"query": "otter", "min_position": position}
        found = asker.one("POST", "/v1/indexes/otters/search", asked).json()
        assert [result["id"] for result in found["results"]] == ["o1"]
