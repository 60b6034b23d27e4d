"""Ports of this machine that are free."""

import os
import random
import socket
import sys
from collections.abc import Collection
from itertools import islice
from pathlib import Path

from shoal.errors import Unavailable

PORTS = range(20_000, 30_000)
"""Where free ports are looked for: below those that Ray Serve gives to replicas, which begin at 30000, and those that
the system gives to whoever asks for any, which begin at 32768 on Linux and at 49152 elsewhere."""


def is_free(host: str, port: int) -> bool:
    """Whether a server can listen on an address. Raises OSError for a host that is not this machine's."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections do not count
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (98, 48):
                return False
            raise
    return True


def require_own(host: str, port: int) -> None:
    """Raise Unavailable if only other users of this machine listen on an address: one was faster than the server.

    Whoever answers there in its place would be sent its keys. Where there is no /proc, nothing is noticed.
    """
    users = _listeners(host, port)
    if users and os.geteuid() not in users:
        raise Unavailable(
            f"another user of this machine (uid {min(users)}) listens on port {port} since this server began to "
            "start; choose another with --port"
        )


def _listeners(host: str, port: int) -> set[int]:
    """User ids of those who listen on an address, or on all addresses, of this machine."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    packed = socket.inet_pton(family, str(address[0]))
    wanted = {f"{_hex(place)}:{port:04X}" for place in (packed, bytes(4), bytes(16))}
    users = set()
    for table in ("tcp", "tcp6"):
        try:
            sockets = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        except OSError:
            continue
        users |= {int(words[7]) for words in sockets if words[3] == _LISTENING and words[1] in wanted}
    return users


_LISTENING = "0A"
"""How /proc/net/tcp calls the state of a socket that listens."""


def _hex(address: bytes) -> str:
    """An address as /proc/net/tcp has it: words of this machine's byte order."""
    words = (address[start : start + 4] for start in range(0, len(address), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def free_ports(count: int, taken: Collection[int | None]) -> list[int]:
    """Ports on loopback that are free now, and that nobody gets by chance who asks the system for any port."""
    free = (port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free("127.0.0.1", port))
    return list(islice(free, count))
