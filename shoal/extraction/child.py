"""The process that reads documents: `python -m shoal.extraction.child`. It is asked over a pipe and answers on one.

It says `s` once it has started. A request is the name of a reader, its length before it, and the bytes of the document
with theirs; an answer is `t` or `r` and the text or the reason. The process has bounds on memory and computing time,
which the kernel keeps, and refuses to open connections, to start programs and to write files, whatever a parser is made
to do.
"""

import importlib
import os
import resource
import struct
import sys
from typing import BinaryIO

from shoal.extraction.document_types import MIB, MOST_CHARACTERS, REMEDY, Unreadable

READY = b"s"
"""What the process says first, so that one that cannot start is not taken for a document that cannot be read."""
LENGTH = struct.Struct("!Q")
"""How lengths are written: 64 bits, the highest first."""
MEMORY_BYTES = 1024 * MIB
"""Address space of the process, beside ten times the document."""
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.kill",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "shutil.",
    "tempfile.",
    "ctypes.dlopen",
    "urllib.",
)
"""What the process does not do, by the names of Python's audit events."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
"""Flags of files that are opened to be written."""


class Forbidden(Exception):
    """What no document may make its parser do."""


def allow_time(seconds: float) -> None:
    """Bound the computing time of this process, from now on; the kernel ends it beyond."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)


def allow_memory(size: int) -> None:
    """Bound the address space of this process."""
    _bound(resource.RLIMIT_AS, size)


def _bound(name: int, limit: int) -> None:
    """Set a limit, or leave that of whoever started this process where it is lower."""
    most = resource.getrlimit(name)[1]
    resource.setrlimit(name, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def forbid() -> None:
    """Raise Forbidden from now on where this process would connect, start a program or write to a file."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise Forbidden(f"{event} is not for a document to do")
        if event == "open" and _is_writing(*arguments[1:]):
            raise Forbidden("a document does not write files")

    sys.addaudithook(hook)


def _is_writing(mode: object = None, flags: object = 0) -> bool:
    """Whether a file is opened to be written: by a mode, as `open` has it, or by the flags of `os.open` alone."""
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & _WRITING)


def answer(reader: str, data: bytes) -> tuple[bytes, str]:
    """Read a document: `t` and its text, or `r` and why it has none."""
    try:
        module = importlib.import_module(f"shoal.extraction.{reader}")
        text = module.extract(data)
        if len(text) > MOST_CHARACTERS:
            raise Unreadable(f"holds more than {MOST_CHARACTERS:,} characters; split it")
        return b"t", text
    except Unreadable as reason:
        return b"r", str(reason)
    except ModuleNotFoundError as error:
        return b"r", f"needs the module {error.name}: {REMEDY}"
    except (MemoryError, RecursionError) as error:
        return b"r", f"is too large to be read ({type(error).__name__})"
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        return b"r", f"cannot be read ({type(error).__name__}{': ' if detail else ''}{detail})"


def main() -> None:
    """Answer until there is nothing more to read."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a parser prints is no answer
    # A process that is ended at its bound of time would leave its memory in the folder that it was started from.
    _bound(resource.RLIMIT_CORE, 0)
    forbid()
    target.write(READY)
    target.flush()
    while (head := source.read(LENGTH.size)) and len(head) == LENGTH.size:
        reader = source.read(LENGTH.unpack(head)[0]).decode()
        (seconds,) = LENGTH.unpack(source.read(LENGTH.size))
        (size,) = LENGTH.unpack(source.read(LENGTH.size))
        allow_memory(MEMORY_BYTES + 10 * size)
        allow_time(seconds)
        data = source.read(size)
        write(target, *answer(reader, data))
        del data


def write(target: BinaryIO, kind: bytes, text: str) -> None:
    """Write an answer."""
    body = text.encode("utf-8", "replace")
    target.write(kind + LENGTH.pack(len(body)) + body)
    target.flush()


if __name__ == "__main__":
    main()
