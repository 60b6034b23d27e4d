"""A receiver of spans, as a collector of OpenTelemetry is one: OTLP over HTTP, decoded."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE_S = 60.0
"""How long spans may take to arrive."""
KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived: ids in hexadecimal, `parent` empty for the first of a trace, times in nanoseconds.

    content: all that it says.
    """

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    attributes: dict[str, Any]
    failed: bool
    started: int
    ended: int
    service: str
    content: str


class SpanReceiver:
    """What has arrived."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self._more = threading.Condition()

    def add(self, body: bytes) -> None:
        received = ExportTraceServiceRequest.FromString(body)
        with self._more:
            for resource in received.resource_spans:
                service = _attributes(resource.resource.attributes)["service.name"]
                self.spans += [_span(span, service) for scope in resource.scope_spans for span in scope.spans]
            self._more.notify_all()

    def wait_for(self, trace: str, *names: str) -> list[ReceivedSpan]:
        """Return the spans of a trace once it has spans of these names."""
        deadline = time.monotonic() + PATIENCE_S
        with self._more:
            while set(names) - {span.name for span in self.of(trace)}:
                remaining = deadline - time.monotonic()
                assert remaining > 0, (names, sorted(span.name for span in self.spans))
                self._more.wait(remaining)
            return self.of(trace)

    def of(self, trace: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace == trace]


def _span(span: Any, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        KINDS[span.kind],
        _attributes(span.attributes),
        span.status.code == 2,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        service,
        f"{span.name} {_attributes(span.attributes)} {span.status} {span.events}",
    )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def receiving_spans() -> Iterator[SpanReceiver]:
    """Receive spans until the end of the block, in which what is started here and below sends them at once."""
    receiver = SpanReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            receiver.add(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            environment.delenv(name)
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        environment.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
