"""`make demo`: the whole of Shoal once through, by the commands that a user types.

Makes a corpus from the docstrings of installed packages, builds an index, serves it, asks questions and shows each
answer before and after reranking. What it leaves is below .demo/, so that the second run finds its index already built.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = Path(".demo")
INDEX = FOLDER / "index"
CORPUS = FOLDER / "docstrings.jsonl"
QUESTIONS = (
    "run several coroutines at once and wait until all of them are done",
    "how strongly do two rankings agree",
    "distance between points that have missing values",
    "log a user in with a name and a password",
    "put binary data into an email as text",
)


def main() -> None:
    """Run the demo; with --keep the server stays until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    keep = parser.parse_args().keep
    os.chdir(ROOT)
    started = time.perf_counter()
    run("python", "-m", "jobs.docstring_corpus", "--output", str(CORPUS))
    run("shoal", "build", "--source", str(CORPUS), "--title-field", "title", "--index", str(INDEX), "--shards", "2")
    with serving() as url:
        for question in QUESTIONS:
            run("shoal", "compare", question, "--top-n", "5", "--url", url)
        say(f"Done in {time.perf_counter() - started:.0f} s.")
        if keep:
            say(f"Still serving at {url} (API: {url}/docs). Ask: .venv/bin/shoal search 'your question' --url {url}")
            say("Ctrl-C stops it.")
            signal.pause()


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
    code = subprocess.run(command(*words), check=False).returncode
    if code:
        sys.exit(code)


@contextmanager
def serving() -> Iterator[str]:
    """Serve the index on a free port while the block runs; yield the URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ("shoal", "serve", "--index", str(INDEX), "--port", str(port))
    say(f"$ {shlex.join(words)}")
    server = subprocess.Popen(command(*words), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            print(line, end="", flush=True)
            if line.startswith("ready "):
                break
        else:
            sys.exit(server.wait() or 1)
        yield f"http://127.0.0.1:{port}"
    except KeyboardInterrupt:
        pass
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
