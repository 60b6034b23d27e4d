"""What a killed process leaves running is ended: by its guard, or else by whoever comes next."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.system.leftovers import MARK, end_group
from shoal.system.temporary import sweep, temporary_folder

LONG_S = 60
"""Longer than it takes on a busy machine."""
WAITS = "import signal; print(flush=True); signal.pause()"
SERVER = f"""
import os, subprocess, sys
from pathlib import Path
from shoal.system.leftovers import mark, start_guard
from shoal.system.temporary import temporary_folder
with temporary_folder("", sys.argv[1]) as folder:
    mark(folder)
    agent = subprocess.Popen([sys.executable, "-c", {WAITS!r}], stdout=subprocess.PIPE, start_new_session=True)
    agent.stdout.readline()
    if sys.argv[2] == "guarded":
        start_guard(folder)
    print(agent.pid, flush=True)
    sys.stdin.read()
    agent.kill()
"""


@pytest.fixture(autouse=True)
def a_process_that_has_not_swept_yet() -> None:
    sweep.cache_clear()


@pytest.fixture
def agents() -> Iterator[list[int]]:
    """Process descriptors of what a server has started; whatever fails, nothing is left of them."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def server(folder: Path, guarded: bool, agents: list[int]) -> "subprocess.Popen[str]":
    """Start what stands for a server; its agent's descriptor is put into `agents`."""
    words = [sys.executable, "-c", SERVER, str(folder), "guarded" if guarded else "alone"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    agents.append(os.pidfd_open(int(process.stdout.readline())))
    return process


def ended(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def test_a_guard_ends_what_a_killed_server_has_started(tmp_path: Path, agents: list[int]) -> None:
    process = server(tmp_path, True, agents)
    assert not ended(agents[0], 0)
    process.kill()
    process.communicate()
    assert ended(agents[0], LONG_S)


def test_without_a_guard_whoever_starts_next_ends_it(tmp_path: Path, agents: list[int]) -> None:
    process = server(tmp_path, False, agents)
    process.kill()
    process.communicate()
    assert not ended(agents[0], 0)
    with temporary_folder("", str(tmp_path)) as folder:
        assert ended(agents[0], 0)
        assert list(tmp_path.iterdir()) == [folder]


def test_what_a_living_server_has_started_is_left_alone(tmp_path: Path, agents: list[int]) -> None:
    process = server(tmp_path, True, agents)
    with temporary_folder("", str(tmp_path)):
        assert not ended(agents[0], 0)
    end_group(tmp_path / "another")
    assert not ended(agents[0], 0)
    process.communicate("")  # and at its end it stops its own
    assert ended(agents[0], LONG_S)
    assert list(tmp_path.iterdir()) == []


def test_only_the_group_of_the_folder_itself_is_ended(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "ab"]
    running = [
        subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, env={**os.environ, MARK: str(folder)})
        for folder in folders
    ]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        descriptors = [os.pidfd_open(process.pid) for process in running]
        end_group(folders[0])
        assert [ended(descriptor, 0) for descriptor in descriptors] == [True, False]
    finally:
        for process in running:
            process.kill()
            process.communicate()
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_process_that_has_written_over_its_environment_is_known_by_its_logs(tmp_path: Path) -> None:
    """As Ray's agents are, once they have named themselves anew."""
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with (tmp_path / "agent.log").open("w") as log:
        agent = subprocess.Popen(
            [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, env=environment, pass_fds=[log.fileno()]
        )
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        end_group(tmp_path)
        assert agent.wait(LONG_S) == -signal.SIGKILL
    finally:
        agent.kill()
        agent.communicate()
