"""Keeps the gRPC port of every replica on 127.0.0.1; Serve has no option for it.

The port takes pickled calls without asking who sends them. Ray runs this once in each worker of a private Ray, before
Serve is imported there. It is a module of its own because every worker pays for importing it.
"""


def listen_on_loopback() -> None:
    """Replace the address that Serve listens on."""
    from ray._common import tls_utils

    add_port = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))
