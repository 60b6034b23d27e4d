"""Unit tests run in milliseconds: no Ray, no sockets, no waiting. What is forbidden fails at once, with the reason."""

import socket
import sys
import time
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(what: str) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError(f"a unit test must not {what}; write an integration test")

        return refuse

    monkeypatch.setattr(socket.socket, "connect", forbid("connect a socket"))
    monkeypatch.setattr(socket.socket, "bind", forbid("bind a socket"))
    monkeypatch.setattr(time, "sleep", forbid("sleep"))
    if "ray" in sys.modules:
        monkeypatch.setattr(sys.modules["ray"], "init", forbid("start Ray"))
