"""Clients who go on searching while something is done to the server, and what they saw of it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

TIMEOUT_MS = 20_000


@dataclass(frozen=True)
class Seen:
    """One request: when it was answered, how long that took, from which version, and what the answer lacked."""

    at: float
    seconds: float
    version: str | None
    failure: str | None
    degraded: str | None


@dataclass
class Load:
    """What clients see who go on asking. Where a passage ends with the word `of-v`, it has to come from version v."""

    seen: list[Seen] = field(default_factory=list)

    def ask(self, client: httpx.Client, query: str) -> None:
        began, version, failure, degraded = time.monotonic(), None, None, None
        try:
            response = client.post("/v1/search", json={"query": query, "top_k": 20, "timeout_ms": TIMEOUT_MS})
            if response.status_code == 200:
                answer = response.json()
                version, degraded = answer["index_version"], answer["degraded"]
                ends = {result["text"].split()[-1] for result in answer["results"]}
                if strangers := {end for end in ends if end.startswith("of-")} - {f"of-{version}"}:
                    failure = f"an answer from {version} holds passages that are {', '.join(sorted(strangers))}"
            else:
                failure = response.text
        except httpx.HTTPError as error:
            failure = repr(error)
        ended = time.monotonic()
        self.seen.append(Seen(ended, ended - began, version, failure, degraded))

    @property
    def failures(self) -> list[str]:
        """What clients got instead of an answer."""
        return [one.failure for one in self.seen if one.failure]

    @property
    def flaws(self) -> list[str]:
        """The same, and what answers said they lack."""
        return [flaw for one in self.seen if (flaw := one.failure or one.degraded)]

    @property
    def versions(self) -> Counter[str]:
        """How many answers came from each version."""
        return Counter(one.version for one in self.seen if one.version)

    def is_whole_again(self, asked: int) -> bool:
        """Whether fifty answers in a row were whole, after the first `asked` ones."""
        return len(self.seen) >= asked + 50 and not any(one.degraded or one.failure for one in self.seen[-50:])

    def last_flaw(self) -> float | None:
        """When the last answer came that was not whole."""
        return max((one.at for one in self.seen if one.failure or one.degraded), default=None)


@contextmanager
def asking(url: httpx.URL | str, clients: int = 3, pause_s: float = 0.1) -> Iterator[Load]:
    """Ask until the end of the block: every client all the time, but for a pause between two requests."""
    load, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.wait(pause_s):
                load.ask(client, f"the red fish {number} {len(load.seen)}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
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
