"""A process that has ended is noticed at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shoal.errors import Unavailable
from shoal.system.process_watch import ProcessWatch

LONG_S = 600
"""Longer than any test may take: whoever waits it out has noticed nothing."""


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_who_runs_is_waited_for_and_whose_end_is_noticed_ever_after(process: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch({os.getpid(): "this test", process.pid: "the child"})
    watch.wait(0)
    assert watch.ended is None
    process.kill()
    for _ in range(2):
        with pytest.raises(Unavailable, match="the child has ended"):
            watch.wait(LONG_S)
    assert watch.ended == "the child"


def test_threads_wait_beside_each_other(process: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch({process.pid: "the child"})
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(watch.wait, LONG_S)
        watch.wait(0)
        process.kill()
        with pytest.raises(Unavailable, match="the child has ended"):
            other.result()


def test_who_ended_before_is_noticed_too(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    with pytest.raises(Unavailable, match="the child has ended"):
        ProcessWatch({process.pid: "the child"}).wait(LONG_S)


def test_nothing_is_noticed_after_the_watch_has_been_closed(process: "subprocess.Popen[bytes]") -> None:
    watch = ProcessWatch({process.pid: "the child"})
    watch.close()
    process.kill()
    process.wait()
    watch.wait(0)
    assert watch.ended is None


def test_without_such_descriptors_it_waits_all_the_same(
    monkeypatch: pytest.MonkeyPatch, process: "subprocess.Popen[bytes]"
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    ProcessWatch({process.pid: "the child"}).wait(0)
