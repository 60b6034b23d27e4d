"""The process that reads documents: `python -m shoal.extraction.child`. It is asked over a pipe and answers on one.

A request is the name of a reader, its length before it, and the bytes of the document with theirs; an answer is `t` or
`r` and the text or the reason. The process has bounds on memory and computing time, which the kernel keeps, and
refuses to open connections, to start programs and to write files, whatever a parser is made to do.
"""

import importlib
import resource
import struct
import sys
from typing import BinaryIO

from shoal.extraction.document_types import MIB, REMEDY, Unreadable

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
    "shutil.",
    "ctypes.dlopen",
    "urllib.",
)
"""What the process does not do, by the names of Python's audit events."""


class Forbidden(Exception):
    """What no document may make its parser do."""


def allow_time(seconds: float) -> None:
    """Bound the computing time of this process, from now on; the kernel ends it beyond."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def allow_memory(size: int) -> None:
    """Bound the address space of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def forbid() -> None:
    """Raise Forbidden from now on where this process would connect, start a program or write to a file."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise Forbidden(f"{event} is not for a document to do")
        if event == "open" and len(arguments) > 1 and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            raise Forbidden("a document does not write files")

    sys.addaudithook(hook)


def answer(reader: str, data: bytes) -> tuple[bytes, str]:
    """Read a document: `t` and its text, or `r` and why it has none."""
    try:
        module = importlib.import_module(f"shoal.extraction.{reader}")
        return b"t", module.extract(data)
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
    forbid()
    while (head := source.read(LENGTH.size)) and len(head) == LENGTH.size:
        reader = source.read(LENGTH.unpack(head)[0]).decode()
        (seconds,) = LENGTH.unpack(source.read(LENGTH.size))
        (size,) = LENGTH.unpack(source.read(LENGTH.size))
        allow_memory(MEMORY_BYTES + 10 * size)
        data = source.read(size)
        allow_time(seconds)
        write(target, *answer(reader, data))
        del data


def write(target: BinaryIO, kind: bytes, text: str) -> None:
    """Write an answer."""
    body = text.encode("utf-8", "replace")
    target.write(kind + LENGTH.pack(len(body)) + body)
    target.flush()


if __name__ == "__main__":
    main()
