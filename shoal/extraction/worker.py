"""Reads documents in a process of its own, which is started when the first one comes and replaced when one ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from shoal.extraction.child import LENGTH, READY
from shoal.extraction.document_types import MIB, MOST_BYTES, Unreadable, type_of

SECONDS = 60
"""Computing time for one document, beside that for its size."""
SECONDS_PER_MIB = 10
"""Computing time for each MiB of a document."""
_PATIENCE = 20
"""Real time for each second of computing, on machines that are busy, before a process that answers nothing is ended."""
_INHERITED = ("PATH", "LD_LIBRARY_PATH")
"""Variables that Python itself may need to start."""


class Extractor:
    """Makes Markdown of documents. Not for several threads at once.

    Args:
        seconds: Computing time for one document, beside that for its size.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def text_of(self, name: str, data: bytes) -> str:
        """Return the text of a document as Markdown.

        Raises Unreadable, whose reason completes `the file ...`, and OSError where no process can be started.

        Args:
            name: Of the document, whose ending says what it is.
            data: Its bytes.
        """
        kind = type_of(name)
        assert kind is not None
        self.check_size(len(data))
        seconds = self._seconds + SECONDS_PER_MIB * len(data) // MIB
        process = self._process = self._process or _start()
        timer = Timer(_PATIENCE * seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            status, text = _asked(process, kind.reader, seconds, data)
        except (OSError, EOFError):
            raise Unreadable(self._end(process, seconds)) from None
        finally:
            timer.cancel()
        if status == b"r":
            raise Unreadable(text)
        return text

    @staticmethod
    def check_size(size: int) -> None:
        """Raise Unreadable for a document of more bytes than are read."""
        if size > MOST_BYTES:
            raise Unreadable(f"is too long ({size:,} bytes); the most is {MOST_BYTES:,}")

    def _end(self, process: subprocess.Popen[bytes], seconds: int) -> str:
        """Say why a process has ended; the next document gets another one."""
        self._process = None
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with _ignored():
                    pipe.close()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"takes more than {seconds} seconds of computing to be read"
        return f"makes the process end that reads it ({code})"

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _start() -> subprocess.Popen[bytes]:
    # What is imported lies where this process finds it, which need not be where Python looks by itself; and nowhere
    # else: `-m` alone would import what lies in the working folder first, which may be the folder of the documents.
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment = inherited | {
        "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "LC_ALL": "C.UTF-8",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal.extraction.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    if process.stdout.read(1) != READY:
        process.communicate()
        raise OSError(f"the process that reads documents does not start (it ended with {process.returncode})")
    return process


def _asked(process: subprocess.Popen[bytes], reader: str, seconds: int, data: bytes) -> tuple[bytes, str]:
    """Send a document, and return what kind of answer came and what it says. Raises OSError, EOFError."""
    assert process.stdin is not None
    assert process.stdout is not None
    name = reader.encode()
    process.stdin.write(LENGTH.pack(len(name)) + name + LENGTH.pack(seconds) + LENGTH.pack(len(data)))
    process.stdin.write(data)
    process.stdin.flush()
    head = process.stdout.read(1 + LENGTH.size)
    if len(head) < 1 + LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head[1:])
    body = process.stdout.read(length)
    if len(body) < length:
        raise EOFError
    return head[:1], body.decode()
