"""A meter that remembers, for tests of what is measured."""

from serve.telemetry import METRICS, Metric


class RecordingMeter:
    """Keeps every value; refuses a metric that is not among METRICS, and labels that it does not declare."""

    def __init__(self) -> None:
        self.values: list[tuple[Metric, float, dict[str, str]]] = []

    def count(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        self._keep("counter", metric, amount, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._keep("histogram", metric, value, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._keep("gauge", metric, value, labels)

    def counted(self, metric: Metric, **labels: str) -> float:
        return sum(self.observed(metric, **labels))

    def observed(self, metric: Metric, **labels: str) -> list[float]:
        return [
            value
            for other, value, given in self.values
            if other is metric and all(given[name] == label for name, label in labels.items())
        ]

    def _keep(self, kind: str, metric: Metric, value: float, labels: dict[str, str]) -> None:
        assert metric in METRICS, metric  # as a replica's meter does
        assert metric.kind == kind, metric
        assert set(labels) == set(metric.labels), (metric, labels)
        self.values.append((metric, value, labels))
