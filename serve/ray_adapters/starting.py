"""How `shoal serve` starts Serve and its endpoint, side by side."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client

from serve.app import NAME
from serve.ray_adapters.haproxy import serve_host
from shoal.errors import Unavailable
from shoal.settings import RunSettings

START_ATTEMPTS = 3
"""Times that Serve is started where its proxy does not come up."""
POLL_S = 0.05
"""Seconds between looks whether there is a controller that can be told what to deploy."""


def deploy(settings: RunSettings, endpoint: serve.Application, pause: Callable[[float], None]) -> None:
    """Start Serve, and deploy the endpoint as soon as there is a controller: replicas start beside the proxy.

    Args:
        settings: Of the server.
        endpoint: What is deployed.
        pause: Waits so many seconds; what it raises ends the waiting.

    Raises:
        Unavailable: Serve did not start.
    """
    started = _beside(lambda: insist(lambda: start_serve(settings)))
    while not started.done() and _get_global_client(raise_if_no_controller_running=False) is None:
        pause(POLL_S)
    if started.done():
        started.result()
    insist(lambda: _run(endpoint))
    started.result()


def start_serve(settings: RunSettings) -> None:
    """Start Serve with its proxy, which Serve itself ends and starts again where it takes too long to come up."""
    # The second time it finds the Serve that it has started, and leaves the waiting to whoever asks it.
    serve.start(proxy_location="HeadOnly", http_options={"host": serve_host(settings), "port": settings.port})


def _run(endpoint: serve.Application) -> None:
    target = serve.RunTarget(endpoint, name=NAME, route_prefix="/")
    with suppress(TimeoutError):  # for proxies alone, after it has deployed: that is waited for with `start_serve`
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def insist(ask: Callable[[], None]) -> None:
    """Ask something of Serve, and again where it fails. Raises Unavailable after START_ATTEMPTS."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ask()
            return
        except (RayError, TimeoutError) as error:
            if attempt == START_ATTEMPTS:
                raise Unavailable(
                    "Ray Serve did not start; try again when the machine is less busy, or with --proxy ray"
                ) from error


def _beside(work: Callable[[], None]) -> Future[None]:
    """Do something in a thread that a process which ends does not wait for."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="start of Serve", daemon=True).start()
    return future
