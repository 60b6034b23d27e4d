"""The wiring that can be looked at without starting Serve."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from serve.app import Entry, Server
from shoal.encoders import load_encoder
from shoal.serving.plan import Shape
from shoal.settings import EncoderSettings
from shoal.testing.fakes import serve_settings


async def test_an_endpoint_learns_what_services_were_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(load_encoder(EncoderSettings(encoder="hashing:64")).fingerprint(), 1)
    theirs = {"reranker": "/trained", "retriever_replicas": 2}
    handle: Any = object()
    entries = [Entry("/nowhere", shape, [handle], handle, "late_interaction", theirs)]

    async def call(*_: Any, **__: Any) -> Entry:
        return entries[-1]

    monkeypatch.setattr("serve.app.serve", SimpleNamespace(get_app_handle=lambda name: handle))
    monkeypatch.setattr("serve.app.call", call)
    endpoint = Server.__new__(Server)
    endpoint._settings, endpoint._known = serve_settings(), {}
    services = await endpoint._look_up("shoal-green")
    assert services is not None
    assert (services.kind, services.theirs) == ("late_interaction", theirs)
    assert await endpoint._look_up("shoal-green") is services
    entries.append(replace(entries[0], theirs={**theirs, "retriever_replicas": 4}))
    other = await endpoint._look_up("shoal-green")
    assert other is not services
    assert await endpoint._look_up("shoal-green") is other
    entries.append(replace(entries[0], index="/elsewhere"))
    assert await endpoint._look_up("shoal-green") is None
