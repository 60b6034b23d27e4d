"""`shoal serve --local` as a user starts and stops it: one process, and nothing of it left behind."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.settings import LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.servers import Server, running, wait


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "index", "v1", passages(40))
    return tmp_path / "index"


def sigterm(server: Server) -> None:
    server.process.terminate()


def ctrl_c(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [sigterm, ctrl_c])
def test_it_answers_logs_slow_queries_and_stops(root: Path, tmp_path: Path, stop: Callable[[Server], None]) -> None:
    options = ("--local", "--reranker=overlap", "--slow-query-ms=0", "--log-format=json", "--log-queries", "--json")
    with running(tmp_path, root, *options) as server:
        server.wait_ready('{"ready": "{}"}')
        asked = httpx.post(f"{server.url}/v1/search", json={"query": "red fish"}, headers={"x-request-id": "r-1"})
        assert asked.status_code == 200
        assert asked.headers["x-request-id"] == "r-1"
        assert "server" not in asked.headers
        wait(lambda: "slow_query" in server.errors())
        lines = [json.loads(line) for line in server.errors().splitlines()]
        (line,) = [line for line in lines if "slow_query" in line]
        assert (line["request_id"], line["slow_query"]["query"], line["levelname"]) == ("r-1", "red fish", "WARNING")
        stop(server)
        assert server.process.wait() == 0
        assert "Traceback" not in server.errors()
        server.assert_nothing_is_left(within_s=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--retriever-replicas=2",), "--retriever-replicas means nothing with --local"),
        (("--host=0.0.0.0",), "API keys"),
        (("--encoder=hashing:32",), "hashing:64"),
    ],
)
def test_what_cannot_be_served_is_named(root: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    with running(tmp_path, root, "--local", *options) as server:
        assert server.process.wait() == 2
        assert words in server.errors()
        assert "Traceback" not in server.errors()


def test_it_compacts_by_itself_and_ends_its_compaction(tmp_path: Path) -> None:
    root = tmp_path / "index"
    publish(root, "v1", passages(40), lexical=LexicalSettings(), writable=True)
    options = ("--local", "--reranker=none", "--watch-s=0.1", "--compact", "--compact-check-s=0.1", "--due-rows=3")
    with running(tmp_path, root, *options, "--due-replaced=1") as server:
        server.wait_ready()

        def write(*ids: str) -> None:
            body = {"passages": [{"id": id_, "text": f"an axolotl {id_}"} for id_ in ids]}
            httpx.post(f"{server.url}/v1/passages", json=body, timeout=60).raise_for_status()

        def described() -> Any:
            return httpx.get(f"{server.url}/v1/index", timeout=60).json()

        write("a")
        assert described()["version"] == "v1"
        write(*(f"n{number}" for number in range(20)))
        wait(lambda: described()["version"] != "v1")
        assert described()["live"]["complete_to"] == 2
        assert described()["passages"] == 61
        assert described()["problem"] is None
        wait(lambda: "holds all that was written up to position 2" in server.errors())
        assert "compacting what was written" in server.errors()
        server.process.terminate()
        assert server.process.wait() == 0
        assert "Traceback" not in server.errors()
        server.assert_nothing_is_left(within_s=20)
