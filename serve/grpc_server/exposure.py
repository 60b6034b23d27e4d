"""What must hold before a server speaks gRPC: certificates that fit, and nothing in clear beyond loopback unasked."""

import ssl
from pathlib import Path

from serve.web.access import is_loopback
from shoal.errors import InvalidArgument
from shoal.settings import ServeSettings

_OPTIONS = ("grpc_certificate", "grpc_key", "grpc_insecure")
"""Settings that mean nothing without a port."""


def check_grpc(settings: ServeSettings, host: str) -> None:
    """Raise InvalidArgument for what gRPC cannot be, or should not be, served with at an address."""
    if settings.grpc_port is None:
        if name := next((name for name in _OPTIONS if getattr(settings, name)), None):
            raise InvalidArgument(f"{_option(name)} means nothing without --grpc-port", param=_option(name))
        return
    if (settings.grpc_certificate is None) != (settings.grpc_key is None):
        raise InvalidArgument(
            "--grpc-certificate and --grpc-key are needed together: one encrypts with both", param="--grpc-certificate"
        )
    if settings.grpc_certificate is not None:
        read_certificate(settings)
    elif not (is_loopback(host) or settings.grpc_insecure):
        raise InvalidArgument(
            f"will not speak gRPC in clear on {host}, where keys and passages could be read on the way: give "
            "--grpc-certificate FILE and --grpc-key FILE, or --grpc-insecure if something in front of it encrypts",
            param="--grpc-port",
        )


def read_certificate(settings: ServeSettings) -> tuple[bytes, bytes]:
    """Return the private key and the certificates, in PEM. Raises InvalidArgument for what is none, or no pair."""
    assert settings.grpc_certificate is not None
    assert settings.grpc_key is not None
    certificate, key = (Path(path).expanduser() for path in (settings.grpc_certificate, settings.grpc_key))
    try:
        # A password is given, since else one would be asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        return key.read_bytes(), certificate.read_bytes()
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"{certificate} and {key} are no certificate and its private key, in PEM and without a password "
            f"({error.reason or error})",
            param="--grpc-certificate",
        ) from None
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {certificate} or {key} ({error.strerror}); correct --grpc-certificate and --grpc-key",
            param="--grpc-certificate",
        ) from None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
