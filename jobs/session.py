"""The Ray cluster that a job runs on: the one it was submitted to, or a private one that ends with it."""

import logging
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from shoal.cli.errors import INTERRUPTED
from shoal.errors import InvalidArgument, ShoalError, Unavailable
from shoal.settings import BuildSettings
from shoal.system.folders import require_writable
from shoal.system.leftovers import mark, start_guard
from shoal.system.machine import usable_cores
from shoal.system.process_watch import ProcessWatch
from shoal.system.processes import adopt_orphans, ignore_signals, kill_descendants, stop_on_signals
from shoal.system.ray_processes import essential_processes, start_head, start_ray
from shoal.system.temporary import ray_folder, ray_parent, temporary_folder

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a private cluster. Passages and vectors travel through the index root, never through Ray."""

_IDLE_MS = 3_600_000
"""How long an idle process of a private cluster is kept, in milliseconds. While the encoders have the processors, the
processes that planned wait for the stages that follow; to start others takes seconds."""

_RETRIES = 3
"""How often a task is started again after its process or node has died."""

LOOK_S = 0.5
"""Seconds within which the watch of Ray's processes notices that it is no longer wanted."""

_PRIVATE = {
    # Only this process and its children hold the token: no other user of the machine can run code in the cluster.
    "RAY_AUTH_MODE": "token",
    # The one switch that keeps every port of a local Ray on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables of a Ray that is started for one job."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What there is to compute with now; a joined cluster may grow."""

    cpus: float
    gpus: float
    private: bool
    in_process: bool = False
    """Whether it is this process alone, without Ray."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many embedding workers, and what Ray reserves for each."""

    count: int
    cpus: int
    gpus: float

    @property
    def options(self) -> dict[str, float]:
        """The resources as Ray names them."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def joins_cluster() -> bool:
    """Whether this process belongs to a cluster: RAY_ADDRESS names it, and `ray job submit` sets that."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_session() -> Iterator[Cluster]:
    """Join the cluster that RAY_ADDRESS names, or run a private one until the end.

    Raises InvalidArgument where there is no such cluster, or a private one could write nothing, and Unavailable where a
    private one does not start or loses a process without which it does nothing.
    """
    private = not joins_cluster()
    # Ray reads most of its variables when it is imported, and its C++ part writes warnings to stderr that help no user.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if private:
        require_writable(ray_parent(), "TMPDIR")
        for name, value in {**_PRIVATE, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
            os.environ.setdefault(name, value)
        adopt_orphans()
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray prints what happens to workers on stdout, which belongs to the result, until it has ended.
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        if private:
            folder = stack.enter_context(temporary_folder(parent=ray_parent()))
            mark(folder)
            head = {
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": {"idle_worker_killing_time_threshold_ms": _IDLE_MS},
                "temp_dir": str(ray_folder(folder)),
            }
        processes = ProcessWatch({})
        try:
            with _silent_stderr():
                if private:
                    start_ray(partial(start_head, ray, head, **options))
                    start_guard(folder)
                else:
                    _join(options)
            stop_on_signals()  # Ray has put its own handler of SIGTERM in place
            if private:
                processes = ProcessWatch(essential_processes())
            resources = ray.cluster_resources()
            with _watched(processes) if private else nullcontext():
                yield Cluster(resources.get("CPU", 0), resources.get("GPU", 0), private)
        finally:
            if private:
                ignore_signals()
            if processes.ended is not None:
                kill_descendants()  # what is left would be waited for
            ray.shutdown()
            processes.close()
            if private:
                kill_descendants()  # Ray's node agents outlive a raylet that was stopped while it started


@contextmanager
def this_process(threads: int) -> Iterator[Cluster]:
    """Compute in this process, on the cores of this machine, without Ray. An interrupt ends the process at once.

    Threads that encode would hear of it only when their unit is done. What is not committed then is done again by the
    next run, as after a SIGKILL.

    threads: of linear algebra. The last bits of its results depend on them; Ray gives its tasks as many.
    """
    from threadpoolctl import threadpool_limits

    try:
        with threadpool_limits(threads):
            yield Cluster(usable_cores(), 0, private=True, in_process=True)
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _join(options: dict[str, Any]) -> None:
    """Join the cluster that RAY_ADDRESS names. Raises InvalidArgument where there is none."""
    import ray

    try:
        ray.init(**options)
    except SystemExit:
        raise KeyboardInterrupt from None  # by Ray's own handler of SIGTERM
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "")
        raise InvalidArgument(
            f"no Ray cluster answers at RAY_ADDRESS={address}; correct it, or unset it to build here"
        ) from error


@contextmanager
def _watched(processes: ProcessWatch) -> Iterator[None]:
    """End the block when a process ends without which Ray would only wait, for a minute. Raises Unavailable then."""
    done, interrupted = threading.Event(), threading.Event()

    def watch() -> None:
        try:
            while not done.is_set():
                processes.wait(LOOK_S)
        except Unavailable:
            if not done.is_set():
                interrupted.set()
                os.kill(os.getpid(), signal.SIGINT)  # what ends a wait inside Ray

    thread = threading.Thread(target=watch, name="watch of Ray", daemon=True)
    thread.start()

    def settle() -> None:
        done.set()
        with suppress(KeyboardInterrupt):  # the watch's own, which came too late
            thread.join()

    try:
        yield
    except KeyboardInterrupt:
        settle()
        if interrupted.is_set():
            processes.wait(0)
        raise
    except Exception:
        settle()
        processes.wait(0)  # whatever went wrong in a Ray that has ended went wrong because of it
        raise
    settle()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what Ray's C++ part writes past Python's streams, such as that its log level was set."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def embedding_workers(settings: BuildSettings, cluster: Cluster) -> Workers:
    """Size the pool: one worker for each GPU if there are any, else as many as the CPUs allow.

    More may be asked for on a cluster that was joined, since it may grow; a private one never starts more than fit, and
    InvalidArgument is raised when not even one does. A process alone is one worker with the threads of all: they share
    the model.
    """
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 1 if cluster.gpus >= 1 and settings.device != "cpu" else 0
    if cluster.private and (settings.threads > cluster.cpus or gpus > cluster.gpus):
        raise InvalidArgument(
            f"a worker asks for {settings.threads} CPUs and {gpus:g} GPUs, this machine has {cluster.cpus:g} and "
            f"{cluster.gpus:g}; lower --threads or --gpus-per-worker",
            param="--threads" if settings.threads > cluster.cpus else "--gpus-per-worker",
        )
    room = math.floor(cluster.cpus / settings.threads)
    if gpus:
        room = min(room, math.floor(cluster.gpus / gpus))
    count = settings.workers or room
    if cluster.private:
        count = min(count, room)
    if cluster.in_process:
        return Workers(1, max(count, 1) * settings.threads, 0)
    return Workers(max(count, 1), settings.threads, gpus)


def shortage(workers: Workers) -> str | None:
    """Say what no node of the cluster has now for a worker: Ray waits for such a node without a word."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= workers.cpus and node.get("GPU", 0) >= workers.gpus for node in nodes):
        return None
    return (
        f"no node of the cluster has the {workers.cpus} CPUs and {workers.gpus:g} GPUs of a worker: waiting for one; "
        "if the cluster does not grow, lower --threads or --gpus-per-worker"
    )


def start(function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
    """Start a Ray task and return the reference to its result, to be handed to other tasks."""
    import ray

    return ray.remote(function).options(max_retries=_RETRIES, **options).remote(*arguments)


def run(function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
    """Run one call of a function as a Ray task and return its result; options are its resources."""
    (result,) = spread(function, [arguments], limit=1, **options)
    return result


def spread(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], limit: int, **options: float
) -> Iterator[Any]:
    """Run many calls as Ray tasks, at most `limit` at a time, and give their results as they come.

    A task whose process or node dies runs again elsewhere. A ShoalError of a task is raised here as itself.
    """
    import ray

    running: list[Any] = []
    try:
        for arguments in calls:
            running.append(start(function, *arguments, **options))
            if len(running) >= limit:
                yield _next(running)
        while running:
            yield _next(running)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _next(running: list[Any]) -> Any:
    import ray

    (done,), running[:] = ray.wait(running)
    try:
        return ray.get(done)
    except Exception as error:
        raise cause(error) from None


def cause(error: Exception) -> Exception:
    """What Ray raises for a failed task, as an error of one line: the ShoalError inside it, or one that says the rest.

    SHOAL_TRACEBACK=1 keeps an error that nobody expected as it is, with the stack trace of the worker.
    """
    chain: list[BaseException] = [error]
    while (inner := getattr(chain[-1], "cause", None) or chain[-1].__cause__) is not None:
        chain.append(inner)
    for inner in chain:
        # Ray's own wrapper is an instance of the wrapped class as well, with the stack trace for its message.
        if isinstance(inner, ShoalError) and type(inner).__module__ == ShoalError.__module__:
            return inner
    from ray.exceptions import RayError, RayTaskError

    origin = next((inner for inner in chain if not isinstance(inner, RayError)), chain[-1])
    if isinstance(origin, RayError) and not isinstance(origin, RayTaskError):
        return Unavailable(
            f"a worker of the build was lost, and again when it was replaced ({_first_line(origin)}); if its memory "
            "ran out, set fewer workers or smaller units (unit_passages), then run the same command again: it continues"
        )
    if os.environ.get("SHOAL_TRACEBACK") == "1":
        return error
    return ShoalError(
        f"a task of the build failed: {type(origin).__name__}: {_first_line(origin)} (SHOAL_TRACEBACK=1 shows where)"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
