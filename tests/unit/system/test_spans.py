"""When spans are made, and what happens to what cannot be."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shoal.system import spans

PLACE = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (
        *("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", *spans.ENDPOINTS),
        *("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    ):
        monkeypatch.delenv(name, raising=False)
    spans.stop()
    yield
    spans.stop()


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "Console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, None),
    ],
)
def test_the_standard_variables_turn_spans_on_and_off(
    variables: dict[str, str], exporter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert spans.exporter_name() == exporter
    assert spans.start() is (exporter is not None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'; use one of otlp, console, or none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the protocol is 'grpc'; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
    ],
)
def test_what_cannot_be_used_is_logged_once_and_nothing_is_traced(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        assert not spans.start()
        assert not spans.start()
    assert [record.getMessage() for record in caplog.records] == [f"no spans are made: {message}"]


def test_an_exporter_that_is_not_installed_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert not spans.start()
    assert "pip install 'shoal[tracing]'" in caplog.text


def test_work_that_nobody_traces_costs_no_library_and_changes_nothing() -> None:
    with spans.received("request", [PLACE]) as request, spans.work("search", {"shoal.top_k": 3}) as work:
        work.describe(lambda: pytest.fail("made for nobody"))
        request.rename("other")
        assert spans.current() == spans.carriers() == ()
        assert work.carrier() == {}
    code = "import sys; from shoal.system import spans; spans.start(); print('opentelemetry' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root).stdout == "False\n"


def test_work_for_several_requests_has_a_span_in_the_trace_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    other = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-01", "tracestate": "vendor=7"}
    with spans.received("request", [PLACE]):
        first = spans.current()
    with spans.received("request", [other]):
        second = spans.current()
    spans.work_under(first, second)
    with suppress(KeyError), spans.work("shard search"):
        assert [carrier["traceparent"][3:35] for carrier in spans.carriers()] == ["a" * 32, "c" * 32]
        assert [carrier.get("tracestate") for carrier in spans.carriers()] == [None, "vendor=7"]
        assert spans.current() not in (first, second)
        raise KeyError
    assert spans.current() == (*first, *second)
    spans.work_under()
    assert spans.current() == ()
