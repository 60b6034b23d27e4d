"""Clients who go on asking while something is done to the server, and what they saw of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

CLIENTS = 3
PAUSE_S = 0.1
TIMEOUT_MS = 20_000


@dataclass(frozen=True)
class Seen:
    """One request: when it was answered, how long that took, and what was wrong with the answer, if anything was."""

    at: float
    seconds: float
    failure: str | None
    degraded: str | None


@dataclass
class Load:
    """What clients see who go on asking."""

    url: str
    seen: list[Seen] = field(default_factory=list)

    def ask(self, client: httpx.Client, query: str) -> None:
        began, failure, degraded = time.monotonic(), None, None
        try:
            response = client.post("/v1/search", json={"query": query, "timeout_ms": TIMEOUT_MS})
            if response.status_code == 200:
                degraded = response.json()["degraded"]
            else:
                failure = response.text
        except httpx.HTTPError as error:
            failure = repr(error)
        ended = time.monotonic()
        self.seen.append(Seen(ended, ended - began, failure, degraded))

    @property
    def failures(self) -> list[str]:
        return [one.failure for one in self.seen if one.failure]

    def is_whole_again(self, asked: int) -> bool:
        """Whether fifty answers in a row were whole, after the first `asked` ones."""
        return len(self.seen) >= asked + 50 and not any(one.degraded or one.failure for one in self.seen[-50:])

    def last_flaw(self) -> float | None:
        """When the last answer came that was not whole."""
        return max((one.at for one in self.seen if one.failure or one.degraded), default=None)


@contextmanager
def asking(url: str) -> Iterator[Load]:
    """Ask until the end of the block: three clients, each of them all the time but for a pause between two requests."""
    load, stop = Load(url), threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.wait(PAUSE_S):
                load.ask(client, f"the red fish {number} {len(load.seen)}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def report(load: Load, what: str, struck: float) -> None:
    """Print what became of the requests that were answered from a moment on."""
    after = [one for one in load.seen if one.at >= struck]
    print(
        f"{what}: {len(after)} requests, {len(load.failures)} failed, "
        f"{sum(one.degraded is not None for one in after)} incomplete, "
        f"whole after {max(0.0, (load.last_flaw() or struck) - struck):.1f} s, "
        f"slowest {max(one.seconds for one in after):.2f} s"
    )
