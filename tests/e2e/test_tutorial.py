"""docs/tutorial.md, as somebody follows it: every command of it, in its order, and what comes of them."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
STEPS = re.findall(r"(?ms)^```(sh|python)\n(.*?)^```", TUTORIAL)
EXPECTED = {
    "why do corals bleach": "corals survive bleaching",
    "my chain skips": "chain that skips",
    "how often do I feed the starter": "sourdough starter",
    "when are spring tides": "Spring tides",
}
"""Questions, and what their answers show."""


class Follower:
    """Somebody with a terminal, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "bin"
        programs.mkdir()
        shim = "from shoal.cli.main import main; main()"
        (programs / "shoal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{shim}" "$@"\n')
        (programs / "shoal").chmod(0o755)
        self.folder = folder
        port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "RAY_"))}
        self.environment = kept | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "160",
            "SHOAL_PORT": str(port),
            "SHOAL_URL": f"http://127.0.0.1:{port}",
            # Weightless: the words of the questions are those of the passages.
            "SHOAL_ENCODER": "hashing:256",
            "SHOAL_RERANKER": "overlap",
        }

    def type(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", text], capture_output=True, text=True, cwd=self.folder, env=self.environment
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    @contextmanager
    def second_terminal(self, text: str) -> Iterator[None]:
        """Run a server until the end of the block, which begins when it says that it is ready."""
        command = shlex.split(text)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=self.folder, env=self.environment
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == f"ready {self.environment['SHOAL_URL']}\n"
            try:
                yield
            finally:
                server.terminate()
            assert server.wait(60) == 0


def test_following_it_gives_the_answers(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    (serve,) = [number for number, (_, text) in enumerate(STEPS) if text.startswith("shoal serve")]
    before, (_, server), after = STEPS[:serve], STEPS[serve], STEPS[serve + 1 :]
    asked = set()

    def follow(steps: list[tuple[str, str]]) -> None:
        for language, text in steps:
            shown = follower.type(text if language == "sh" else f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}")
            for question in (question for question in EXPECTED if question in text):
                assert EXPECTED[question] in " ".join(shown.split()), shown
                asked.add(question)

    follow(before)
    with follower.second_terminal(server):
        follow(after)
    assert asked == set(EXPECTED)
