"""What Ray runs first in worker processes, before Serve is imported there.

It is a module of its own because every worker pays for importing it.
"""

import importlib
import sys

from shoal.system import log_losses


def set_up_replica() -> None:
    """For the workers of a private Ray, all of which are Serve's."""
    log_losses.tolerate()
    listen_on_loopback()
    import_without_pandas("ray.serve")


def listen_on_loopback() -> None:
    """Keep the gRPC port of every replica on 127.0.0.1; Serve has no option for it.

    The port takes pickled calls without asking who sends them.
    """
    from ray._common import tls_utils

    add_port = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def import_without_pandas(module: str) -> None:
    """Import a module as if pandas were not installed; whoever imports that later finds it.

    Serve imports pandas if it can, for data frames in answers: a fifth of what a replica imports before it runs, and 28
    MiB.
    """
    if "pandas" in sys.modules:
        importlib.import_module(module)
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # what makes `import pandas` an ImportError
    try:
        importlib.import_module(module)
    finally:
        del sys.modules["pandas"]
