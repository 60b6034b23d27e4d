"""A job ends with the Ray that it started, and says so, whatever it was doing."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jobs.session import _watched
from shoal.errors import Unavailable
from shoal.system.process_watch import ProcessWatch
from shoal.system.processes import STOPS, stop_on_signals

CHILD = [sys.executable, "-c", "input()"]


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    handlers = {number: signal.getsignal(number) for number in STOPS}
    stop_on_signals()
    running = subprocess.Popen(CHILD, stdin=subprocess.PIPE)
    try:
        yield running
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        running.kill()
        running.communicate()


def wait_for_ever(watch: ProcessWatch, process: "subprocess.Popen[bytes]") -> None:
    other = subprocess.Popen(CHILD, stdin=subprocess.PIPE)
    try:
        with _watched(watch):
            process.kill()
            other.wait()
    finally:
        other.kill()
        other.communicate()


def fail(watch: ProcessWatch, error: BaseException) -> None:
    with _watched(watch):
        raise error


def test_a_wait_without_end_ends_with_the_process_that_it_waits_for(process: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(Unavailable, match="Ray's GCS has ended"):
        wait_for_ever(ProcessWatch({process.pid: "Ray's GCS"}), process)


def test_what_goes_wrong_in_a_ray_that_has_ended_is_told_as_its_end(process: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch({process.pid: "Ray's GCS"})
    process.kill()
    process.wait()
    with pytest.raises(Unavailable, match="Ray's GCS has ended"):
        fail(watch, ConnectionError("nobody there"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("of its own")])
def test_what_ends_a_job_while_its_ray_runs_stays_what_it_is(
    error: BaseException, process: "subprocess.Popen[bytes]"
) -> None:
    with pytest.raises(type(error)):
        fail(ProcessWatch({process.pid: "Ray's GCS"}), error)
