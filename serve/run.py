"""`python -m serve.run`: serve an index from this machine in the foreground, until Ctrl-C or SIGTERM.

Starts a private Ray, deploys `serve.app`, and prints one line `ready http://HOST:PORT` when every shard can be
searched. Nothing of it is left when it ends: no process, no port, no file. On a cluster `serve deploy` is used instead.
"""

import asyncio
import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import typer

from serve.preflight import check_catalog, check_disk, check_ports
from serve.ray_adapters import private_ray
from serve.versions.catalog_compaction import CompactedIndexes
from serve.versions.compacting import compacting
from serve.versions.planned_indexes import plan_indexes
from serve.web.access import KeyRing, check_exposure
from serve.worker_setup import import_without_pandas
from shoal.cli.application import application_folder, search_path
from shoal.cli.errors import run as start
from shoal.cli.options import AsJson, settings_command
from shoal.errors import Unavailable
from shoal.serving.plan import ServingPlan
from shoal.settings import EndpointSettings, RunSettings, ServeSettings
from shoal.system import log_losses
from shoal.system.leftovers import mark, start_guard
from shoal.system.ports import require_own
from shoal.system.process_watch import ProcessWatch
from shoal.system.processes import adopt_orphans, ignore_signals, kill_descendants, stop_on_signals
from shoal.system.ray_processes import essential_processes, start_head, start_ray
from shoal.system.temporary import ray_folder, ray_parent, sweep, temporary_folder
from shoal.system.terminal import say

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a private Ray. Queries and answers travel by gRPC, never through the object store."""
STOP_S = 20.0
"""How long Serve may take to stop before its processes are ended."""
SILENCE_S = 60.0
"""How long the server may fail to answer before this process gives up."""
POLL_S = 0.2
"""Seconds between looks whether the server is ready."""
WATCH_S = 5.0
"""Seconds between looks at a server that runs, and that an answer to one may take."""
NOTICE_S = 15.0
"""Seconds that a fault lasts before it is worth a line."""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Asks the server of this machine, whatever address it listens on, and never by way of HTTP_PROXY."""
app = typer.Typer(add_completion=False)


@settings_command(app, RunSettings)
def run(settings: RunSettings, as_json: AsJson = False) -> None:
    """Serve an index over HTTP, until Ctrl-C or SIGTERM.

    Prints one line `ready http://HOST:PORT` on stdout as soon as every shard can be searched.
    """
    try:
        stop_on_signals()
        log_losses.tolerate()
        sweep(ray_parent())  # a server that was killed may have left what holds the ports
        check_ports(settings)
        check_exposure(settings.host, KeyRing.of(settings.api_keys_file) is not None, settings.anonymous)
        if settings.local:
            from serve.local import serve_locally

            serve_locally(settings, partial(_say_ready, _url(settings.host, settings.port), as_json))
            return
        _serve_on_ray(settings, as_json)
    except KeyboardInterrupt:
        pass  # the end that was asked for, by Ctrl-C or SIGTERM


def _serve_on_ray(settings: RunSettings, as_json: bool) -> None:
    """Serve the indexes with replicas on a private Ray, until KeyboardInterrupt."""
    served = settings.part(EndpointSettings)
    planned = plan_indexes(served)
    check_catalog(settings)
    for each in planned:
        check_disk(settings.model_copy(update={"index": each.settings.index}), each.plan)
    compacted = CompactedIndexes(served, {each.name: each.settings.index for each in planned})
    # Ray prints on stdout too, where only our one line belongs.
    with (
        contextlib.redirect_stdout(sys.stderr),
        _ray(settings) as processes,
        _serve(settings, served, planned[0].plan if planned else None, processes),
        asyncio.Runner() as loop,
        compacting(settings, compacted.roots, say) as compactor,
    ):
        from serve.ray_adapters import finishing, index_services, noting

        follow = index_services.start_services(planned, loop, inside=_serves_itself(served))
        url = _url(_reached(settings.host), settings.port)
        _wait_until_ready(url, follow, partial(_lacking, loop), processes.wait)
        require_own(_reached(settings.host), settings.port)
        _say_ready(_url(settings.host, settings.port), as_json)
        try:
            follow = partial(noting.follow_and_note, loop, follow, compacted, compactor)
            _watch(url, follow, partial(_replies, loop), min(WATCH_S, settings.watch_s), processes.wait)
        except KeyboardInterrupt:
            finishing.finish(loop, settings.drain_s)
            raise


def _say_ready(url: str, as_json: bool) -> None:
    print(json.dumps({"ready": url}) if as_json else f"ready {url}", file=sys.__stdout__, flush=True)


def _reached(host: str) -> str:
    """The address at which this machine reaches a server that listens on an address, which may stand for all."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _url(host: str, port: int) -> str:
    """The URL of a server at an address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopping() -> Iterator[None]:
    """What nothing may interrupt, and what Ray comments on: it takes the end of Serve's controller for an error."""
    ignore_signals()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _ray(settings: RunSettings) -> Iterator[ProcessWatch]:
    """A private Ray that is prepared for Serve, until the end of the block. Yields a watch of its processes."""
    with temporary_folder(parent=ray_parent()) as folder:
        adopt_orphans()
        mark(folder)
        private_ray.prepare(folder, settings)
        os.environ.update(search_path(application_folder()))
        import ray

        # Importing Serve takes as long as starting Ray, which is mostly waiting for other processes.
        importing = threading.Thread(target=import_without_pandas, args=("serve.app",), daemon=True)
        importing.start()
        processes = ProcessWatch({})
        try:
            head = {
                "object_store_memory": OBJECT_STORE_BYTES,
                "temp_dir": str(ray_folder(folder)),
                "metrics_export_port": settings.metrics_port,
            }
            start_ray(
                partial(
                    start_head,
                    ray,
                    head,
                    runtime_env={"worker_process_setup_hook": "serve.worker_setup.set_up_replica"},
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            )
            start_guard(folder)
            importing.join()
            stop_on_signals()
            processes = ProcessWatch(essential_processes())
            yield processes
        finally:
            with _stopping():
                if processes.ended is not None:
                    kill_descendants()  # what is left would be waited for
                ray.shutdown()
                processes.close()
                kill_descendants()  # Ray's node agents outlive a raylet that was stopped while it started


@contextmanager
def _serve(
    settings: RunSettings, served: EndpointSettings, plan: ServingPlan | None, processes: ProcessWatch
) -> Iterator[None]:
    """Deploy the endpoint, and stop all of Serve at the end, if the processes of its Ray still run."""
    from ray import serve

    from serve.app import wire_endpoint
    from serve.ray_adapters.starting import deploy

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    try:
        endpoint = wire_endpoint(served, plan if _serves_itself(served) else None, settings.host)
        deploy(settings, endpoint, processes.wait)
        yield
    finally:
        with _stopping(), contextlib.suppress(Unavailable):
            processes.wait(0)  # without them Serve would not stop, but wait for a minute
            thread = threading.Thread(target=serve.shutdown, daemon=True)
            thread.start()
            deadline = time.monotonic() + STOP_S
            while thread.is_alive() and time.monotonic() < deadline:
                processes.wait(POLL_S)


def _serves_itself(settings: ServeSettings) -> bool:
    """Whether the endpoint has the encoder or the shards inside, and with them all that serves the first version."""
    return not (settings.encoder_replicas and settings.retriever_replicas)


def _lacking(loop: asyncio.Runner) -> str:
    """What keeps an ingress replica from being ready, which /readyz keeps from strangers; empty if it does not say."""
    from serve.ray_adapters.index_services import ask

    return ", ".join(ask(loop, "ready") or [])


def _replies(loop: asyncio.Runner) -> bool:
    """Whether an ingress replica answers at all."""
    from serve.ray_adapters.index_services import ask

    return ask(loop, "ready") is not None


def _wait_until_ready(
    url: str, follow: Callable[[], None], lacking: Callable[[], str], pause: Callable[[float], None]
) -> None:
    from serve.ray_adapters.index_services import deployment_problem

    noticed = time.monotonic()
    while missing := _missing(url):
        if problem := deployment_problem():
            raise problem
        if time.monotonic() - noticed > NOTICE_S:
            noticed = time.monotonic()
            say(f"waiting: {lacking() or missing}")
            follow()
        pause(POLL_S)


def _missing(url: str) -> str | None:
    """Say what keeps the server from being ready; None when it is."""
    try:
        with _open(f"{url}/readyz", timeout=10):
            return None
    except urllib.error.HTTPError as error:
        try:
            return str(json.loads(error.read(2**16))["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return "the ingress is starting"
    except OSError:
        return "the proxy is starting"


def _watch(
    url: str,
    follow: Callable[[], None],
    replies: Callable[[], bool],
    every_s: float,
    pause: Callable[[float], None],
) -> None:
    """Follow what is to be served, until a signal.

    Args:
        replies: Whether an ingress replica answers behind the proxy, which may merely be full.
        pause: Waits, and raises Unavailable when a process has ended without which no Ray works.

    Raises:
        Unavailable: Too when the server has not answered for SILENCE_S.
    """
    answered = asked = time.monotonic()
    while time.monotonic() - answered < SILENCE_S:
        pause(every_s)
        follow()
        if time.monotonic() - asked < WATCH_S:
            continue
        asked = time.monotonic()
        answers = _answers(url)
        if answers or (answers is None and replies()):
            answered = time.monotonic()
    raise Unavailable(f"{url} has not answered for {SILENCE_S:.0f} s; the server has been stopped")


def _answers(url: str) -> bool | None:
    """Whether the server answers at its address; None if it lets nobody in for now, as when it is full."""
    try:
        with _open(f"{url}/healthz", timeout=WATCH_S):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
        return False if refused else None


if __name__ == "__main__":
    start(app)
