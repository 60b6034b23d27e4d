"""What `serve.run` works out before it starts anything."""

import socket
import urllib.request
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from serve.preflight import require_free
from serve.run import SILENCE_S, _missing, _reached, _url, _watch
from shoal.errors import InvalidArgument, Unavailable


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("search.example.org", "http://search.example.org:80"),
    ],
)
def test_the_url_that_this_machine_reaches(host: str, url: str) -> None:
    assert _url(_reached(host), 80) == url


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://0.0.0.0:80"), ("::", "http://[::]:80"), ("127.0.0.1", "http://127.0.0.1:80")]
)
def test_the_url_that_is_told_to_the_user_is_what_is_listened_on(host: str, url: str) -> None:
    assert _url(host, 80) == url


def test_the_server_is_asked_without_the_proxy_for_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setattr(urllib.request, "_opener", None)  # the one that urlopen keeps has read the environment already
    monkeypatch.setattr(socket, "create_connection", connect)
    assert _missing("http://10.1.2.3:8000") == "the proxy is starting"
    monkeypatch.setattr(
        "serve.run.time", SimpleNamespace(monotonic=count(step=SILENCE_S / 3).__next__, sleep=lambda seconds: None)
    )
    with pytest.raises(Unavailable, match="has not answered"):
        _watch("http://10.1.2.3:8000", lambda: None, lambda: True, 1, lambda seconds: None)
    assert asked == [("10.1.2.3", 8000)] * 2


def test_a_server_that_is_full_is_asked_behind_its_proxy_before_it_counts_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(url: str, timeout: float) -> None:
        raise TimeoutError

    replies = iter([True] * 5 + [False] * 99)
    monkeypatch.setattr("serve.run._open", full)
    monkeypatch.setattr(
        "serve.run.time", SimpleNamespace(monotonic=count(step=SILENCE_S / 3).__next__, sleep=lambda seconds: None)
    )
    with pytest.raises(Unavailable, match="has not answered"):
        _watch("http://10.1.2.3:8000", lambda: None, lambda: next(replies), 1, lambda seconds: None)
    assert len(list(replies)) < 99  # it went on as long as a replica answered


@pytest.mark.parametrize(
    ("found", "param", "words"),
    [
        (False, "--port", "port 80 is in use on 127.0.0.1; choose another with --port"),
        (PermissionError(13, "Permission denied"), "--port", "choose one from 1024 with --port"),
        (OSError(99, "Cannot assign requested address"), "--host", "(Cannot assign requested address); correct --host"),
    ],
)
def test_an_address_that_cannot_be_had(
    found: bool | OSError, param: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_free(host: str, port: int) -> bool:
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr("serve.preflight.is_free", is_free)
    with pytest.raises(InvalidArgument) as caught:
        require_free("127.0.0.1", 80)
    assert words in caught.value.message
    assert caught.value.param == param
