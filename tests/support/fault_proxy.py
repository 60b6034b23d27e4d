"""An S3 server behind a network that loses, delays and doubles requests and answers, by a seed."""

import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("lost request", "lost answer", "doubled", "delayed", "conflict", "overloaded")
"""What happens to a request; for those that write nothing only losses."""
_CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"
_OVERLOADED = b"<Error><Code>SlowDown</Code><Message>too much</Message></Error>"


class FaultProxy(ThreadingHTTPServer):
    """Hands requests to `endpoint`, except where `likelihood` (0 to 1, each request) has another happen.

    happened: how often each fault did.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, seed: int, likelihood: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.happened = dict.fromkeys(FAULTS, 0)
        self._random = random.Random(seed)
        self._likelihood = likelihood
        self._lock = threading.Lock()
        self._delayed: list[tuple[int, Any]] = []
        self._requests = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self, method: str) -> str | None:
        """What happens to this request."""
        with self._lock:
            if self._random.random() >= self._likelihood:
                return None
            fault = self._random.choice(FAULTS if method == "PUT" else FAULTS[:2])
            self.happened[fault] += 1
            return fault

    def delay(self, send: Any) -> None:
        """Send a request once a few more have arrived."""
        with self._lock:
            self._delayed.append((self._requests + self._random.randint(1, 12), send))

    def arrived(self) -> None:
        """Send what was delayed up to now."""
        with self._lock:
            self._requests += 1
            due = [send for when, send in self._delayed if when <= self._requests]
            self._delayed = [(when, send) for when, send in self._delayed if when > self._requests]
        for send in due:
            send()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _handle(self) -> None:
        self.server.arrived()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.draw(self.command)
        if fault == "delayed":
            self.server.delay(lambda: self._forward(body))
        if fault in ("delayed", "lost request"):
            self._hang_up()
        elif fault == "conflict":
            self._answer(409, {}, _CONFLICT)
        elif fault == "overloaded":
            self._answer(503, {}, _OVERLOADED)
        else:
            if fault == "doubled":
                self._forward(body)
            status, headers, answer = self._forward(body)
            if fault == "lost answer":
                self._hang_up()
            else:
                self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", headers.get("content-length", "0")) if self.command == "HEAD" else None
        self.send_header("Content-Length", str(len(body)) if length is None else length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fault_proxy(endpoint: str, seed: int, likelihood: float) -> Iterator[FaultProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FaultProxy(endpoint, seed, likelihood)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
