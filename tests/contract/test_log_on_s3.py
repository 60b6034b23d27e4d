"""Several writers of one log on a real S3 server, behind a network that loses, delays and doubles."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import count
from urllib.parse import parse_qs, urlsplit

import pytest

from shoal.errors import DeadlineExceeded, Unavailable
from shoal.index_root import object_entry_store
from shoal.index_root.entry_store import check_conditional_create
from shoal.index_root.log import Log, open_entry_store
from shoal.index_root.log_entry import LogEntry
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.fault_proxy import fault_proxy
from tests.support.log_entries import entry, upsert

WRITERS, REQUESTS = 3, 15


class Answered(Exception):
    """The request was written before, at this position."""


class Client:
    """Writes one request after the other, and repeats what was not acknowledged."""

    def __init__(self, uri: str, name: str) -> None:
        self.name = name
        self.writer = LogWriter(Log.open(uri), 0, sleep=lambda seconds: None)
        self.applied: list[tuple[int, str]] = []
        self.acknowledged: dict[str, int] = {}
        self._nonces = count()

    def apply(self, entry: LogEntry) -> None:
        self.applied.append((entry.position, entry.requests[0].key or ""))

    def work(self) -> None:
        for request in range(REQUESTS):
            key = f"{self.name}-{request}"
            while key not in self.acknowledged:
                try:
                    written = self.writer.append(partial(self._make, key), self.apply)
                    self.acknowledged[key] = written.position
                except Answered as answered:
                    self.acknowledged[key] = int(answered.args[0])
                except (DeadlineExceeded, Unavailable):
                    pass

    def _make(self, key: str, position: int) -> LogEntry:
        if (found := self.writer.answered(key)) is not None:
            raise Answered(found[0])
        return entry(position, [upsert(f"d{len(key)}", key)], f"{self.name} {next(self._nonces)}", [key])


@pytest.mark.parametrize("seed", range(2))
def test_each_acknowledged_request_is_there_once(s3_uri: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    retries = {"max_retries": 2, "backoff": {"init_backoff": timedelta(milliseconds=1)}}
    monkeypatch.setattr(object_entry_store, "_RETRIES", retries)
    (endpoint,) = parse_qs(urlsplit(s3_uri).query)["endpoint_override"]
    with fault_proxy(endpoint, seed, 0.3) as proxy:
        uri = s3_uri.replace(endpoint, proxy.endpoint)
        clients = [Client(uri, str(number)) for number in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(Client.work, clients))
        assert sum(proxy.happened.values()) > WRITERS * REQUESTS // 2, proxy.happened
    log = [(each.position, each.requests[0].key or "") for each in Log.open(s3_uri).read(0)]
    assert [position for position, _ in log] == list(range(1, WRITERS * REQUESTS + 1))
    acknowledged = {key: position for client in clients for key, position in client.acknowledged.items()}
    assert {key: position for position, key in log} == acknowledged
    assert Counter(key for _, key in log) == Counter(acknowledged.keys())
    for client in clients:
        assert client.applied == log[: len(client.applied)]


def test_the_condition_is_kept_through_a_proxy_that_is_not_to_blame(s3_uri: str) -> None:
    (endpoint,) = parse_qs(urlsplit(s3_uri).query)["endpoint_override"]
    with fault_proxy(endpoint, 0, 0.0) as proxy:
        check_conditional_create(open_entry_store(Storage(s3_uri.replace(endpoint, proxy.endpoint))))


def test_a_store_on_this_machine_is_asked_without_a_proxy(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    check_conditional_create(open_entry_store(Storage(s3_uri)))
