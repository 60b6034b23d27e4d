"""A client of Pinecone's data plane over gRPC that says what it is told to, also what no SDK would."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from serve.grpc_server.messages import MESSAGES

PATIENCE_S = 60.0


class GrpcClient:
    """Asks on one connection. key: sent with each call; None sends none."""

    def __init__(self, channel: grpc.Channel, key: str | None) -> None:
        self.channel = channel
        self.metadata = [("api-key", key)] if key is not None else []

    def ask(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Call with the fields of a message; returns those of the answer, as protobuf makes JSON of them."""
        return self.ask_raw(name, ParseDict(fields, MESSAGES[f"{name}Request"]()).SerializeToString())

    def ask_raw(self, name: str, data: bytes, timeout: float = PATIENCE_S, **options: Any) -> dict[str, Any]:
        """Call with the bytes of a message."""
        call = self.channel.unary_unary(f"/VectorService/{name}")
        answer = call(data, metadata=self.metadata, timeout=timeout, **options)
        return MessageToDict(MESSAGES[f"{name}Response"].FromString(answer), preserving_proto_field_name=True)

    def refused(self, name: str, fields: dict[str, Any] | bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
        """Call with what is refused; returns status and message."""
        try:
            if isinstance(fields, bytes):
                self.ask_raw(name, fields, **options)
            else:
                self.ask(name, fields)
        except grpc.RpcError as error:
            refusal = error.code(), str(error.details())
        else:
            raise AssertionError(f"{name} was answered")
        assert "Traceback" not in refusal[1]
        return refusal

    def outcome(self, name: str, data: bytes, **options: Any) -> str:
        """Call with the bytes of a message; returns the name of the status."""
        try:
            self.ask_raw(name, data, **options)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


@contextmanager
def grpc_client(port: int, key: str | None = None, credentials: Any = None) -> Iterator[GrpcClient]:
    """A client of a port on loopback. credentials: of a channel with TLS; None speaks in clear."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    address = f"127.0.0.1:{port}"
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        yield GrpcClient(channel, key)
