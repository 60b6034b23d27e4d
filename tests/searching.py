"""Clients who go on searching while versions change, and what was wrong with their answers."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class Load:
    """What clients saw who went on searching all the while: answers by version, and everything that was wrong."""

    def __init__(self) -> None:
        self.versions: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self._order: list[str] = []

    @property
    def answers(self) -> int:
        """How many answers there were."""
        return len(self._order)

    def latest(self, count: int) -> set[str]:
        """The versions of the last answers."""
        return set(self._order[-count:])

    def check(self, response: httpx.Response) -> None:
        self.seconds.append(response.elapsed.total_seconds())
        if response.status_code != 200:
            self.wrong.append(response.text)
            return
        answer = response.json()
        version = answer["index_version"]
        self.versions[version] += 1
        self._order.append(version)
        if answer["coverage"]["fraction"] != 1:
            self.wrong.append(f"coverage {answer['coverage']}")
        if not all(result["text"].endswith(f"of-{version}") for result in answer["results"]):
            self.wrong.append(f"an answer from {version} holds passages of another version")


@contextmanager
def searching(url: httpx.URL | str, clients: int = 4) -> Iterator[Load]:
    """Ask all the while. Every passage of a version `v` has to end with the word `of-v`."""
    load, stop = Load(), threading.Event()

    def search() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                load.check(client.post("/v1/search", json={"query": "the red fish", "top_k": 20}))

    threads = [threading.Thread(target=search) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()
