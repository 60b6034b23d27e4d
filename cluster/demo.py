"""`make demo`: the whole of Shoal once through, by the commands that a user types.

Makes a corpus from the docstrings of installed packages, builds an index, serves it, asks questions and shows each
answer before and after reranking. What it leaves is below .demo/ in the current folder, so that the second run finds
its index already built. Where Shoal is installed without a checkout: `python -m cluster.demo`.
"""

import argparse
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.system.processes import stop_on_signals

FOLDER = Path(".demo")
"""Where the demo keeps its index."""
PASSAGES = 3000
"""Passages of the demo's corpus."""
QUESTIONS = (
    "run several coroutines at once and wait until all of them are done",
    "how strongly do two rankings agree",
    "distance between points that have missing values",
    "log a user in with a name and a password",
    "put binary data into an email as text",
)
"""What the demo asks."""


def main() -> None:
    """Run the demo; with --keep the server stays until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where corpus and index go (default: %(default)s)")
    parser.add_argument("--passages", type=int, default=PASSAGES, help="size of the corpus (default: %(default)s)")
    options = parser.parse_args()
    stop_on_signals()
    try:
        demo(options.folder, options.passages, options.keep)
    except KeyboardInterrupt:
        sys.exit(130)


def demo(folder: Path, passages: int, keep: bool) -> None:
    """Make the corpus, build, serve, ask."""
    corpus, index = str(folder / "docstrings.jsonl"), str(folder / "index")
    began = time.perf_counter()
    run("python", "-m", "jobs.docstring_corpus", "--output", corpus, "--limit", str(passages))
    run("shoal", "build", "--source", corpus, "--title-field", "title", "--index", index, "--shards", "2")
    with serving(index) as url:
        for question in QUESTIONS:
            run("shoal", "compare", question, "--top-n", "5", "--url", url)
        say(f"Done in {time.perf_counter() - began:.0f} s.")
        shoal = command("shoal")[0]
        if keep:
            say(f"Ask it in a terminal: {shoal} search 'your question' --url {url} (API: {url}/docs)")
            say(f"The page to ask it in a browser: {url}/")
            say("Ctrl-C stops it.")
            with contextlib.suppress(KeyboardInterrupt):  # the end that was announced is no failure
                signal.pause()
    if not keep:
        say("The page to ask it in a browser is at http://127.0.0.1:8000/ after")
        print(f"{shoal} serve --local --index {shlex.quote(index)}", flush=True)


def say(text: str) -> None:
    """Print a line of the demo's own."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def command(*words: str) -> list[str]:
    """Resolve a command in this interpreter's environment, whatever PATH says."""
    return (
        [sys.executable, *words[1:]]
        if words[0] == "python"
        else [str(Path(sys.executable).parent / words[0]), *words[1:]]
    )


def run(*words: str) -> None:
    """Show a command, run it, and end the demo if it fails."""
    say(f"$ {shlex.join(words)}")
    with started(command(*words)) as process:
        if code := process.wait():
            sys.exit(code)


@contextmanager
def started(words: list[str], stdout: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a process; when the block is left before the process has ended, tell it to stop, and wait until it has."""
    process = subprocess.Popen(words, stdout=stdout, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


@contextmanager
def serving(index: str) -> Iterator[str]:
    """Serve the index on a free port while the block runs; yield the URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ("shoal", "serve", "--index", index, "--port", str(port))
    say(f"$ {shlex.join(words)}")
    with started(command(*words), stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        for line in server.stdout:
            print(line, end="", flush=True)
            if line.startswith("ready "):
                break
        else:
            sys.exit(server.wait() or 1)
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    main()
