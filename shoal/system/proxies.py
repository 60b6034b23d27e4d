"""A proxy for the way out, as HTTP_PROXY names one, has no business between processes of one machine."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names and addresses of this machine itself."""


def no_proxy() -> str:
    """Return the value of the variable `no_proxy` that adds this machine to what the user exempts.

    For Ray's processes as well as for what speaks HTTP: gRPC between replicas of Serve goes through a proxy otherwise.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return ",".join(filter(None, [given, *LOOPBACK]))
