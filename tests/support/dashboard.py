"""The Grafana dashboard and what it may name."""

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "cluster" / "grafana.json"
SERVE_METRICS = ("ray_serve_num_http_requests_total", "ray_serve_num_http_error_requests_total")
"""Metrics of Ray Serve itself that the dashboard and docs/metrics.md use; an integration test sees them exported."""


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text())
    return loaded


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def named(expression: str) -> set[str]:
    """Metrics that a PromQL expression names, histograms without the suffixes of their series."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bray_\w+", expression)}
