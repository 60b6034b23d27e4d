"""The options of a server for gRPC."""

from pydantic import Field

from shoal.settings.base import Name, Settings


class GrpcSettings(Settings):
    """Pinecone's data plane over gRPC."""

    help_panel = "Serve"

    grpc_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port, at the same address, on which Pinecone's clients read and write the index over gRPC. "
        "Default: none.",
    )
    grpc_certificate: Name | None = Field(
        None,
        description="File of the certificate with which gRPC is encrypted, and of those that vouch for it, in PEM; it "
        "is read again when it changes. Needs grpc_key.",
    )
    grpc_key: Name | None = Field(None, description="File of the private key of that certificate, in PEM.")
    grpc_insecure: bool = Field(
        False,
        description="Speak gRPC in clear beyond loopback, because something in front of the server encrypts it. Else "
        "whoever is on the way reads keys and passages, and it is refused.",
    )
