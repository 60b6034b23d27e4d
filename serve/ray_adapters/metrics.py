"""How a replica is watched: its metrics, for Prometheus through Ray's exporter, and its log lines."""

import logging
import threading
from contextlib import suppress
from typing import Any

from ray.serve import metrics
from ray.serve.context import _get_serve_request_context

from serve.telemetry import METRICS, SAMPLE_S, Metric
from shoal.system import log_losses

_LOGGER = logging.getLogger("ray.serve")
"""The log of the replica."""


class ReplicaMeter:
    """The meter of the replica that makes it. Serve adds which deployment and replica that is to every value.

    Making it prepares the logs of the replica as well: what `shoal` logs goes where Serve's lines go, every line names
    the request, no line waits for others before it is written, and one that cannot be written is counted.
    """

    def __init__(self) -> None:
        self._made: dict[Metric, Any] = {}
        logging.getLogger("shoal").parent = _LOGGER
        log_losses.tolerate()
        _LOGGER.addFilter(_name_request)
        # In the fast profile Serve keeps up to a thousand lines back, for hours where little happens.
        threading.Thread(target=_flush_for_ever, name="log flusher", daemon=True).start()

    def count(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter; 0 adds nothing."""
        if amount > 0:  # Ray refuses 0
            self._get(metric).inc(amount, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        self._get(metric).observe(value, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._get(metric).set(value, labels)

    def _get(self, metric: Metric) -> Any:
        if metric not in self._made:
            assert metric in METRICS, metric
            if metric.kind == "histogram":
                made = metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.labels)
            else:
                kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
                made = kind(metric.name, metric.description, metric.labels)
            self._made[metric] = made
        return self._made[metric]


def _name_request(record: logging.LogRecord) -> bool:
    # Serve itself does so only where it also writes a line for every call.
    if not hasattr(record, "request_id") and (request := _get_serve_request_context().request_id):
        record.request_id = request
    return True


def _flush_for_ever() -> None:
    pause = threading.Event()
    while not pause.wait(SAMPLE_S):
        for handler in list(_LOGGER.handlers):
            with suppress(OSError):  # a disk that is full now may have room later
                handler.flush()
        log_losses.LOSSES.report(_LOGGER)
