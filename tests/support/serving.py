"""A local Serve for tests: a private Ray, the application on a free port, and a client that waits until it is ready."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve

from serve.app import NAME, build_app

READY_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs in a folder of its own; tests/conftest.py keeps it on loopback."""
    folder = tempfile.mkdtemp(prefix="shr-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver=False,
        _temp_dir=folder,
        _system_config={"metrics_report_interval_ms": 500},
    )
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(root: Path, **args: Any) -> Iterator[httpx.Client]:
    """Serve an index root until the end of the block; yields a client of the endpoint. Once for each Ray."""
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_app({"index": str(root), **args}), name=NAME, route_prefix="/")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        deadline = time.monotonic() + READY_S
        while (response := client.get("/readyz")).status_code != 200:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.1)
        yield client
