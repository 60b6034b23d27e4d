"""Clients that write to an index and read it at the same time, at random, and remember what they were told."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from shoal.records import Passage
from shoal.writing.requests import Condition
from tests.support.history import REVISION, Attempt, Change, Content, Deletion, History, Read, Update, Upsert

REGISTERS = 8
"""Documents that all clients write. Each is found by a word of its own, and by a number in its metadata."""
SESSIONS = 4
"""Clients, each of which does one thing after another."""
REGISTER = "register"
"""The metadata field with the number of a document."""
PATIENCE_S = 300.0
"""Seconds within which a server has to answer that was away. Nothing here is a goal."""
PAUSE_S = 0.2
"""Seconds before a request is sent again, at most."""
TIMEOUT_S = 60.0
"""Seconds for which a client waits for one answer."""
AFTERWARDS = 20
"""Operations after the last of what is done to a server."""
REPEATED = (429, 500, 502, 503, 504)
"""Statuses after which a request is sent again."""


def initial() -> list[Passage]:
    """Half of the documents, as they are built."""
    return [
        Passage(f"r{number}", f"{REGISTER}{number} built", metadata={REGISTER: number, REVISION: 0})
        for number in range(0, REGISTERS, 2)
    ]


def initial_contents() -> dict[str, Content | None]:
    """What all documents hold then."""
    built = {passage.id: Content(passage.text) for passage in initial()}
    return {f"r{number}": built.get(f"r{number}") for number in range(REGISTERS)}


class Clients:
    """What all sessions share: the servers, and the history.

    Args:
        urls: Of the servers that there are; each attempt goes to any of them.
        seed: Of what they do.
        pause_s: Seconds for which each rests between two operations.
    """

    def __init__(self, urls: Sequence[str], seed: int, pause_s: float = 0.0) -> None:
        self.history = History(initial_contents())
        self.unexpected: list[str] = []
        """Answers that no client should get, and what was given up."""
        self.incomplete = 0
        """Answers that lacked a part, which say so and are left out of the history."""
        self.most_attempts = 0
        """Of a request that writes."""
        self.done = 0
        """Operations of all sessions."""
        self.stopping = False
        self.pause_s = pause_s
        self.lock = threading.Condition()
        self._urls = list(urls)
        self._threads = [
            threading.Thread(target=Session(self, f"s{number}", random.Random(f"{seed}-{number}")).run)
            for number in range(SESSIONS)
        ]

    def turn_to(self, *urls: str) -> None:
        """Send what follows to other servers; without any, wait until there are some."""
        with self.lock:
            self._urls = list(urls)
            self.lock.notify_all()

    def url(self, chance: random.Random) -> str | None:
        """Any of the servers; None where there is none for long."""
        with self.lock:
            self.lock.wait_for(lambda: self._urls or self.stopping, PATIENCE_S)
            return chance.choice(self._urls) if self._urls else None

    def wait(self, operations: int) -> None:
        """Wait until so many more operations are done, whatever becomes of them."""
        with self.lock:
            until = self.done + operations
            assert self.lock.wait_for(lambda: self.done >= until, PATIENCE_S), f"{self.unexpected}"

    def count(self) -> None:
        """Note that an operation is done."""
        with self.lock:
            self.done += 1
            self.lock.notify_all()

    def start(self) -> None:
        """Start all sessions."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every session end what it is at, and repeat what was not answered if there is a server."""
        with self.lock:
            self.stopping = True
            self.lock.notify_all()
        for thread in self._threads:
            thread.join()

    def end(self, url: str) -> None:
        """Go on a little after the last of what was done to a server, stop, and read everything."""
        self.wait(AFTERWARDS)
        self.stop()
        self.repeat(url)
        self.read_all(url)

    def read_all(self, url: str) -> None:
        """Read every document as it is in the end, by all that there is to read it with."""
        session, before = Session(self, "the last reader", random.Random(0)), len(self.history.reads)
        session.told = max(each.answer["position"] for each in self.history.attempts if each.answer is not None)
        for number in range(REGISTERS):
            session.search(url, [number], "lexical", {"min_position": session.told})
            session.search(url, [number], "dense", {"consistency": "strong"})
        session.search(url, range(REGISTERS), "dense", {"min_position": session.told})
        session.fetch(url, range(REGISTERS))
        if (answers := len(self.history.reads) - before) != 2 * REGISTERS + 2:
            self.unexpected.append(f"of the last answers there are only {answers}")

    def repeat(self, url: str, every: int = 7) -> None:
        """Send some of the requests once more that were answered."""
        session = Session(self, "the last writer", random.Random(0))
        answered = [attempt for attempt in self.history.attempts if attempt.answer is not None and attempt.keyed]
        for attempt in answered[::every]:
            if session.attempt(url, attempt.key, attempt.changes).answer is None:
                self.unexpected.append(f"{attempt.key} was not answered again")


@contextmanager
def writing_and_reading(*urls: str, seed: int = 0, pause_s: float = 0.0) -> Iterator[Clients]:
    """Let clients write and read until the end of the block; then every request that they began has its answer."""
    clients = Clients(urls, seed, pause_s)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()


class Session:
    """One client. name: which no other has. chance: decides what it does."""

    def __init__(self, clients: Clients, name: str, chance: random.Random) -> None:
        self.name = name
        self.told = 0
        """The last position that it was told."""
        self._clients = clients
        self._chance = chance
        self._http = httpx.Client(timeout=TIMEOUT_S)
        self._requests = 0
        self._positions: dict[str, int] = {}
        self._contents: dict[str, Content] = {}

    def run(self) -> None:
        """Write and read until all shall stop."""
        while not self._clients.stopping:
            try:
                self._chance.choice([self.write, self.write, self.read])()
            except Exception as error:
                self._clients.unexpected.append(f"{self.name}: {error!r}")
            self._clients.count()
            time.sleep(self._clients.pause_s)
        self._http.close()

    def write(self) -> None:
        """Write some documents, and send that again until there is an answer."""
        key, changes = self._request()
        if self._chance.random() < 0.2:
            self._write_without_key(key)
            return
        self.write_until_answered(key, changes)

    def write_until_answered(self, key: str, changes: Mapping[str, Change]) -> None:
        """Send a request until there is an answer."""
        began, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            url = self._clients.url(self._chance)
            if url is None or time.monotonic() - began > PATIENCE_S:
                self._clients.unexpected.append(f"{key} was given up after {attempts} attempts")
                return
            attempt = self.attempt(url, key, changes)
            if attempt.answer is not None or attempt.refused:
                break
            time.sleep(self._chance.uniform(0, PAUSE_S))
        self._clients.most_attempts = max(self._clients.most_attempts, attempts)
        if attempt.answer is not None:
            self.told = max(self.told, attempt.answer["position"])
            self._positions |= dict.fromkeys(changes, attempt.answer["position"])
            written = {id_: change.content for id_, change in changes.items() if isinstance(change, Upsert)}
            self._contents |= written

    def _write_without_key(self, key: str) -> None:
        """Write what may be there already, or delete what may be gone, once: without a key it cannot be repeated."""
        url = self._clients.url(self._chance)
        if url is None:
            return
        id_ = f"r{self._chance.randrange(REGISTERS)}"
        content = self._contents.get(id_)
        change = Deletion() if content is None or self._chance.random() < 0.3 else Upsert(content)
        attempt = self.attempt(url, key, {id_: change}, keyed=False)
        if attempt.answer is not None:
            self.told = max(self.told, attempt.answer["position"])

    def read(self) -> None:
        """Read one document, or all, in one of the ways that there are."""
        numbers = [self._chance.randrange(REGISTERS)] if self._chance.random() < 0.7 else range(REGISTERS)
        how = self._chance.choice(["lexical", "dense", "fetch"])
        asked = self._chance.choice([{}, {"min_position": self.told}, {"consistency": "strong"}])
        url = self._clients.url(self._chance)
        if url is None:
            return
        if how == "fetch":
            self.fetch(url, numbers)
        else:
            self.search(url, numbers[:1] if how == "lexical" else numbers, how, asked)

    def _request(self) -> tuple[str, dict[str, Change]]:
        """Make a request at random, with a key of its own."""
        self._requests += 1
        key = f"{self.name}x{self._requests}"
        numbers = self._chance.sample(range(REGISTERS), self._chance.choice([1, 1, 2, 3]))
        dice = self._chance.random()
        if dice < 0.15:
            return key, {f"r{number}": Deletion() for number in numbers}
        if dice < 0.35:
            return key, {f"r{number}": Update(self._requests) for number in numbers}
        return key, {f"r{number}": self._upsert(number, key) for number in numbers}

    def _upsert(self, number: int, key: str) -> Upsert:
        condition, dice = None, self._chance.random()
        if dice < 0.1:
            condition = Condition(None)
        elif dice < 0.3 and f"r{number}" in self._positions:
            condition = Condition(self._positions[f"r{number}"])
        return Upsert(Content(f"{REGISTER}{number} {key}", self._requests), condition)

    def attempt(self, url: str, key: str, changes: Mapping[str, Change], keyed: bool = True) -> Attempt:
        """Send a request once, and remember what became of it."""
        path, body = _body(changes)
        began = time.monotonic()
        answer, refused = None, False
        try:
            response = self._http.post(f"{url}{path}", json=body, headers={"idempotency-key": key} if keyed else {})
            refused = response.status_code == 409
            if response.status_code == 200:
                answer = response.json()
            elif not refused and response.status_code not in REPEATED:
                self._clients.unexpected.append(f"{key}: {response.status_code} {response.text}")
                refused = True
        except httpx.RequestError:
            pass  # nobody knows
        made = Attempt(self.name, key, changes, began, time.monotonic(), answer, refused, keyed)
        self._clients.history.attempts.append(made)
        return made

    def search(self, url: str, numbers: Sequence[int], mode: str, asked: Mapping[str, Any]) -> None:
        """Search for documents, by their word if by words and else by their number."""
        body = {"query": f"{REGISTER}{numbers[0]}", "mode": mode, "top_k": 50, "top_n": 50, "rerank": False, **asked}
        if mode != "lexical":
            body["filter"] = {REGISTER: {"$in": list(numbers)}}
        began = time.monotonic()
        answer = self._post(url, "/v1/search", body)
        if answer is None:
            return
        if answer["degraded"] is not None:
            self._clients.incomplete += 1
            return
        self._remember(
            began, numbers, answer["results"], answer.get("position"),
            body.get("min_position", 0), "consistency" in asked,
        )  # fmt: skip

    def fetch(self, url: str, numbers: Sequence[int]) -> None:
        """Fetch documents by their ids."""
        body = {"ids": [f"r{number}" for number in numbers], "include": ["text", "metadata"]}
        began = time.monotonic()
        answer = self._post(url, "/v1/passages/fetch", body)
        if answer is None:
            return
        if answer.get("unknown"):
            self._clients.incomplete += 1
            return
        self._remember(began, numbers, answer["passages"], None)

    def _post(self, url: str, path: str, body: Mapping[str, Any]) -> Any:
        """The answer; None where there is none, which a read may meet while a server is away."""
        try:
            response = self._http.post(f"{url}{path}", json=body)
        except httpx.RequestError:
            return None
        if response.status_code != 200 and response.status_code not in REPEATED:
            self._clients.unexpected.append(f"{path} {body}: {response.status_code} {response.text}")
        return response.json() if response.status_code == 200 else None

    def _remember(
        self,
        began: float,
        numbers: Sequence[int],
        passages: Sequence[Mapping[str, Any]],
        position: int | None,
        min_position: int = 0,
        strong: bool = False,
    ) -> None:
        asked = {f"r{number}": None for number in numbers}
        found = {each["id"]: Content(each["text"], each["metadata"][REVISION]) for each in passages}
        repeated = [id_ for id_, count in Counter(each["id"] for each in passages).items() if count > 1]
        if strangers := found.keys() - asked.keys():
            self._clients.unexpected.append(f"{sorted(strangers)} were found, asked for {sorted(asked)}")
        read = Read(
            self.name, began, time.monotonic(), {**asked, **found}, position, min_position, strong, repeated
        )  # fmt: skip
        self._clients.history.reads.append(read)
        if min_position or strong:
            self.told = max(self.told, position or 0)


def _body(changes: Mapping[str, Change]) -> tuple[str, dict[str, Any]]:
    """The route of a request and its body."""
    kinds = {type(change) for change in changes.values()}
    if kinds == {Deletion}:
        return "/v1/passages/delete", {"ids": list(changes)}
    if kinds == {Update}:
        updates = [
            {"id": id_, "metadata": {REVISION: change.revision}}
            for id_, change in changes.items()
            if isinstance(change, Update)
        ]
        return "/v1/passages/update", {"updates": updates}
    upserts = [_record(id_, change) for id_, change in changes.items() if isinstance(change, Upsert)]
    return "/v1/passages", {"passages": upserts}


def _record(id_: str, change: Upsert) -> dict[str, Any]:
    number, content = int(id_[1:]), change.content
    record: dict[str, Any] = {"id": id_, "text": content.text}
    record["metadata"] = {REGISTER: number, REVISION: content.revision}
    if change.condition is not None:
        position = change.condition.position
        record["if"] = {"absent": True} if position is None else {"position": position}
    return record
