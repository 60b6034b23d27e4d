"""A server on Ray compacts by itself, and tells why it cannot."""

from pathlib import Path
from typing import Any

import httpx

from shoal.index_root import layout
from shoal.settings import LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.servers import running, wait


def test_it_compacts_by_itself_and_tells_why_it_cannot(tmp_path: Path) -> None:
    root = tmp_path / "index"
    publish(root, "v1", passages(40), lexical=LexicalSettings(), writable=True)
    options = ("--reranker=none", "--watch-s=0.1", "--compact", "--compact-check-s=0.1", "--due-rows=3")
    with running(tmp_path, root, *options, "--due-replaced=1") as server:
        server.wait_ready()

        def write(prefix: str) -> None:
            body = {"passages": [{"id": f"{prefix}{number}", "text": f"an axolotl {number}"} for number in range(20)]}
            httpx.post(f"{server.url}/v1/passages", json=body, timeout=60).raise_for_status()

        def described() -> Any:
            return httpx.get(f"{server.url}/v1/index", timeout=60).json()

        write("a")
        wait(lambda: described()["version"] != "v1")
        assert (described()["live"]["complete_to"], described()["passages"]) == (1, 60)
        assert described()["problem"] is None
        passages_file = root / layout.shard_dir(described()["version"], 0) / layout.PASSAGES
        passages_file.rename(tmp_path / "moved")  # the server has opened it, and a compaction does not find it
        write("b")
        wait(lambda: "cannot be compacted" in (described()["problem"] or ""))
        server.process.terminate()
        assert server.process.wait() == 0
        server.assert_nothing_is_left(within_s=30)
