"""Spans of OpenTelemetry: which part of a server did what for a request, and for how long, in one trace.

Off unless an exporter is configured by the standard variables (docs/operations.md, "Traces"): then no library is
imported, and a piece of work costs a look at one variable. Where one call serves the queries of several requests, it
has a span in the trace of each. Spans hold no texts and no ids of passages, and of errors the type alone.
"""

import atexit
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Literal

from shoal.system.version import __version__

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]
"""What a span says, by names of OpenTelemetry or with `shoal.` before them."""
Carrier = dict[str, str]
"""A place in a trace, as the headers `traceparent` and `tracestate` name it."""

EXPORTERS = ("otlp", "console")
"""Values of OTEL_TRACES_EXPORTER that turn spans on."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables of a receiver's URL, each of which turns spans on."""
PROTOCOL = "http/protobuf"
"""How spans are sent."""
REMEDY = "install it (pip install 'shoal[tracing]') or set OTEL_TRACES_EXPORTER=none"
"""What to do where the exporter is missing."""

logger = logging.getLogger(__name__)

_CURRENT: ContextVar[tuple[Any, ...]] = ContextVar("shoal_spans", default=())
"""Spans of OpenTelemetry that the running code works under, one for each query that is traced."""
_tracer: Any = None
_provider: Any = None
_asked = False


def exporter_name() -> str | None:
    """Return the exporter that the variables name: otlp or console; None where none of them asks for one."""
    chosen = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or chosen == "none":
        return None
    if not chosen:
        return "otlp" if any(os.environ.get(name) for name in ENDPOINTS) else None
    return chosen


def start() -> bool:
    """Begin to make spans in this process if an exporter is configured; returns whether they are made.

    What is configured and cannot be used is logged, once, and nothing is traced.
    """
    global _tracer, _provider, _asked
    if not _asked:
        _asked = True
        name = exporter_name()
        if name is not None and (processor := _make_processor(name)) is not None:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider

            resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "shoal"})
            # Not the global one, which belongs to Serve or to whoever runs this process.
            _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            _provider.add_span_processor(processor)
            _tracer = _provider.get_tracer("shoal", __version__)
            atexit.register(stop)
    return _tracer is not None


def stop() -> None:
    """Send what is not sent yet, and make no more spans until the next `start`."""
    global _tracer, _provider, _asked
    provider, _tracer, _provider, _asked = _provider, None, None, False
    if provider is not None:
        atexit.unregister(stop)
        provider.shutdown()


def _make_processor(name: str) -> Any:
    """Make what sends spans; None, with a warning, where that is not to be had."""
    if name not in EXPORTERS:
        logger.warning(
            "no spans are made: OTEL_TRACES_EXPORTER is %r; use one of %s, or none", name, ", ".join(EXPORTERS)
        )
        return None
    chosen = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if name == "otlp" and (chosen or PROTOCOL) != PROTOCOL:
        logger.warning("no spans are made: the protocol is %r; set OTEL_EXPORTER_OTLP_PROTOCOL=%s", chosen, PROTOCOL)
        return None
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        exporter: SpanExporter
        if name == "console":
            exporter = ConsoleSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
    except ImportError as error:
        logger.warning("no spans are made: the exporter is not installed (%s); %s", error, REMEDY)
        return None
    return BatchSpanProcessor(exporter)


def current() -> tuple[Any, ...]:
    """Return the spans that the running code works under, to be handed to `work_under` where its work is done."""
    return _CURRENT.get()


def work_under(*parents: tuple[Any, ...]) -> None:
    """Let the running task work under these spans from now on, each given as what `current` said where it came in."""
    _CURRENT.set(tuple(span for some in parents for span in some))


def carriers() -> tuple[Carrier, ...]:
    """Return the place in each trace that the running code works in, to be sent with a call to another process."""
    spans = _CURRENT.get()
    return tuple(map(_carrier, spans)) if spans else ()


def _carrier(span: Any) -> Carrier:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: Carrier = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return carrier


class Work:
    """A piece of work with a span in each of some traces, or in none; the code in the block works under them.

    An error that leaves the block is noted by its type.
    """

    __slots__ = ("_spans", "_token")

    def __init__(self, spans: tuple[Any, ...] = ()) -> None:
        self._spans = spans
        self._token: Token[tuple[Any, ...]] | None = None

    def describe(self, attributes: Callable[[], Attributes]) -> None:
        """Add attributes, which are made only if there is a span."""
        if self._spans:
            made = attributes()
            for span in self._spans:
                span.set_attributes(made)

    def rename(self, name: str) -> None:
        """Give the spans another name: what a request is called is known after its routing."""
        for span in self._spans:
            span.update_name(name)

    def fail(self, reason: str) -> None:
        """Mark the work as failed, for a reason in one word."""
        from opentelemetry.trace import StatusCode

        for span in self._spans:
            span.set_attribute("error.type", reason)
            span.set_status(StatusCode.ERROR)

    def carrier(self) -> Carrier:
        """Return the place of the first span in its trace; empty where there is none."""
        return _carrier(self._spans[0]) if self._spans else {}

    def __enter__(self) -> "Work":
        """Begin."""
        if self._spans:
            self._token = _CURRENT.set(self._spans)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the spans."""
        if self._token is None:
            return
        _CURRENT.reset(self._token)
        self._token = None
        if kind is not None:
            self.fail(kind.__name__)
        for span in self._spans:
            span.end()


NOTHING = Work()
"""Work that nobody traces."""


def work(name: str, attributes: Attributes | None = None) -> Work:
    """Make a piece of work under each of the current spans.

    Args:
        name: Of the spans.
        attributes: Known from the beginning.
    """
    parents = _CURRENT.get()
    if not parents or _tracer is None:
        return NOTHING
    from opentelemetry.trace import set_span_in_context

    return Work(
        tuple(_tracer.start_span(name, set_span_in_context(parent), attributes=attributes) for parent in parents)
    )


def received(
    name: str,
    places: Sequence[Mapping[str, str]],
    attributes: Attributes | None = None,
    kind: Literal["server"] = "server",
) -> Work:
    """Make the work that a request or a call asks for, in the traces that it names.

    A place that is none, as that of a client that traces nothing, begins a trace. Where sampling leaves a trace out,
    nothing is made.

    Args:
        name: Of the spans.
        places: One `Carrier` for each span.
        attributes: Known from the beginning.
        kind: Of the spans, in the words of OpenTelemetry.
    """
    if not places or not start():
        return NOTHING
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    propagator = TraceContextTextMapPropagator()
    spans = (
        _tracer.start_span(name, propagator.extract(place), SpanKind[kind.upper()], attributes=attributes)
        for place in places
    )
    return Work(tuple(span for span in spans if span.is_recording()))
