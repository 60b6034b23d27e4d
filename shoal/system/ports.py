"""Ports of this machine that are free."""

import random
import socket
from collections.abc import Collection
from itertools import islice

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


def free_ports(count: int, taken: Collection[int | None]) -> list[int]:
    """Ports on loopback that are free now, and that nobody gets by chance who asks the system for any port."""
    free = (port for port in random.sample(PORTS, len(PORTS)) if port not in taken and is_free("127.0.0.1", port))
    return list(islice(free, count))
