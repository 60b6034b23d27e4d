"""The reranker pool of a served endpoint follows the queries that wait for it: from one replica to three and back.

Like the faults beside it, it takes cores that nothing else keeps busy, and runs with SHOAL_LONG_TESTS=1 only.
"""

import threading
import time
from pathlib import Path

import httpx

from shoal.settings import EMBEDDED_ENCODER
from tests.support.indexes import passages, publish
from tests.support.long import only_long
from tests.support.servers import replicas, running, wait

pytestmark = only_long

CLIENTS = 32
TIMEOUT_MS = 20_000


def test_the_pool_grows_with_the_queries_that_wait_and_shrinks_without_them(tmp_path: Path) -> None:
    root = tmp_path / "index"
    publish(root, "v1", passages(400), encoder=EMBEDDED_ENCODER)
    # Reading passages anew for every query, so that the work lasts.
    options = ("--reranker-max-replicas=3", "--reranker-threads=1", "--reranker-idle-s=2", "--token-cache-bytes=0")
    with running(tmp_path, root, *options) as server:
        server.wait_ready()
        stop, reranked = threading.Event(), []

        def ask(number: int) -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not stop.is_set():
                    body = {"query": f"fish {number} {len(reranked)}", "top_k": 200, "timeout_ms": TIMEOUT_MS}
                    response = client.post("/v1/search", json=body)
                    assert response.status_code == 200, response.text
                    reranked.append(response.json()["reranked"])

        def rerankers() -> int:
            return len(replicas(server, "reranker"))

        assert rerankers() == 1
        began = time.monotonic()
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            wait(lambda: rerankers() == 3)
            grown = time.monotonic() - began
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert any(reranked)
        ended = time.monotonic()
        wait(lambda: rerankers() == 1)
        print(f"three replicas after {grown:.1f} s of load, one {time.monotonic() - ended:.1f} s after its end")
