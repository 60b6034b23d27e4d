"""With which settings gRPC is served, and with which it is refused."""

from pathlib import Path
from typing import Any

import pytest

from serve.grpc_server.exposure import check_grpc, read_certificate
from serve.grpc_server.server import Certificate
from shoal.errors import InvalidArgument
from shoal.settings import ServeSettings
from tests.support.certificates import write_certificate


def settings(**values: Any) -> ServeSettings:
    return ServeSettings(index="/srv/articles", **values)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_in_clear_is_for_this_machine(host: str) -> None:
    check_grpc(settings(grpc_port=50051), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7"])
def test_beyond_loopback_it_is_encrypted_or_asked_for(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"in clear on {host}, .*--grpc-certificate FILE .* or --grpc-insecure"):
        check_grpc(settings(grpc_port=50051), host)
    check_grpc(settings(grpc_port=50051, grpc_insecure=True), host)
    certificate, key = write_certificate(tmp_path)
    check_grpc(settings(grpc_port=50051, grpc_certificate=str(certificate), grpc_key=str(key)), host)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grpc_insecure": True}, "--grpc-insecure means nothing without --grpc-port"),
        ({"grpc_key": "key.pem"}, "--grpc-key means nothing without --grpc-port"),
        ({"grpc_port": 50051, "grpc_key": "key.pem"}, "are needed together"),
        ({"grpc_port": 50051, "grpc_certificate": "certificate.pem"}, "are needed together"),
        (
            {"grpc_port": 50051, "grpc_certificate": "none.pem", "grpc_key": "none.pem"},
            r"cannot read none.pem or none.pem \(No such file or directory\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_grpc(settings(**values), "127.0.0.1")


def test_a_certificate_has_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = write_certificate(tmp_path)
    _, strange = write_certificate(tmp_path / "other")
    with pytest.raises(InvalidArgument, match="are no certificate and its private key"):
        read_certificate(settings(grpc_port=1, grpc_certificate=str(certificate), grpc_key=str(strange)))
    given = settings(grpc_port=1, grpc_certificate=str(certificate), grpc_key=str(key))
    assert read_certificate(given) == (key.read_bytes(), certificate.read_bytes())


def test_a_certificate_is_read_again_when_it_has_changed_and_is_one(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    held = Certificate(settings(grpc_port=1, grpc_certificate=str(certificate), grpc_key=str(key)))
    assert held._renewed() is None
    certificate.write_text("no certificate")
    assert held._renewed() is None
    write_certificate(tmp_path)
    assert held._renewed() is not None
    assert held._read == (key.read_bytes(), certificate.read_bytes())
    assert held._renewed() is None
    key.unlink()
    assert held._renewed() is None
