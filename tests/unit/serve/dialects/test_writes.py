"""Writing over HTTP: what is taken, what is refused with which status, and what OpenAPI says."""

import base64
import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest

from serve.web.access import KeyRing
from serve.web.api import create_api
from shoal.errors import DeadlineExceeded, Unavailable
from shoal.serving import keys
from shoal.testing.fakes import DIM
from tests.support.api_server import Server, check_error

VECTOR = np.arange(1, DIM + 1, dtype=np.float32)


async def post(server: Server, route: str, body: Any, **headers: str) -> httpx.Response:
    path = "/v1/passages" + (f"/{route}" if route else "")
    return await server.client.post(
        path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


async def write(server: Server, *passages: Any, **headers: str) -> httpx.Response:
    return await post(server, "", {"passages": list(passages)}, **headers)


async def test_passages_are_written_updated_and_deleted() -> None:
    server = Server()
    response = await write(
        server,
        {"id": "a", "text": "first", "title": None, "metadata": {"year": 2020}},
        {"id": "b", "vector": VECTOR.tolist()},
        {"id": "c", "text": "third", "vector": base64.b64encode(VECTOR.tobytes()).decode(), "if": {"absent": True}},
    )
    assert (response.status_code, response.json()) == (200, {"position": 1, "written": 3, "unchanged": 0})
    documents = server.engine.writing.log.read()[0].documents
    assert [document.passages[0].text for document in documents] == ["first", "", "third"]
    for document in documents[1:]:
        np.testing.assert_allclose(document.passages[0].vector, VECTOR / np.linalg.norm(VECTOR), rtol=1e-6)
    updated = await post(
        server, "update", {"updates": [{"id": "a", "metadata": {"lang": "en"}}, {"id": "z", "metadata": {}}]}
    )
    assert updated.json() == {"position": 2, "updated": 1, "unchanged": 0, "missing": ["z"]}
    replaced = await post(server, "update", {"updates": [{"id": "a", "metadata": {"x": 1}, "merge": False}]})
    assert replaced.json()["updated"] == 1
    assert server.engine.writing.log.read()[-1].documents[0].passages[0].metadata == {"x": 1}
    assert (await post(server, "delete", {"ids": ["a", "z"]})).json() == {"position": 4, "deleted": 1, "more": False}
    assert (await post(server, "delete", {"filter": {"number": 7}})).json()["deleted"] == 1
    assert (await post(server, "delete", {"all": True})).json()["deleted"] == 41


async def test_a_condition_is_a_conflict() -> None:
    server = Server()
    response = await write(server, {"id": "p0001", "text": "x", "if": {"absent": True}})
    message = check_error(response, 409, "CONFLICT", "passages[0]")
    assert (
        message
        == "nothing was written: passages[0] (id 'p0001'): it should be absent, and was last written at position 0"
    )
    assert (await write(server, {"id": "p0001", "text": "x", "if": {"position": 0}})).status_code == 200


async def test_a_repeated_key_has_the_same_answer_whatever_the_order_of_its_fields() -> None:
    server = Server()
    first = await write(server, {"id": "a", "text": "x", "metadata": {"y": 1, "z": 2}}, idempotency_key="k1")
    again = await write(server, {"metadata": {"z": 2, "y": 1}, "text": "x", "id": "a"}, idempotency_key="k1")
    assert first.json() == again.json() == {"position": 1, "written": 1, "unchanged": 0}
    for route, body in (("", {"passages": [{"id": "a", "text": "y"}]}), ("delete", {"ids": ["a"]})):
        response = await post(server, route, body, idempotency_key="k1")
        check_error(response, 422, "KEY_REUSED", "Idempotency-Key")
    for wrong in ("", "k" * 256, "a\tb"):
        response = await write(server, {"id": "a", "text": "x"}, idempotency_key=wrong)
        check_error(response, 400, "INVALID_ARGUMENT", "Idempotency-Key")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("", {}, "passages"),
        ("", {"passages": []}, "passages"),
        ("", {"passages": [{"text": "x"}]}, "passages[0].id"),
        ("", {"passages": [{"id": 1, "text": "x"}]}, "passages[0].id"),
        ("", {"passages": [{"id": "a"}]}, "passages[0]"),
        ("", {"passages": [{"id": "a", "text": "x", "vector": "@"}]}, "passages[0].vector"),
        ("", {"passages": [{"id": "a", "text": "x", "vector": "AAA="}]}, "passages[0].vector"),
        ("", {"passages": [{"id": "a", "text": "x", "vector": [1, "2"]}]}, "passages[0].vector[1]"),
        ("", {"passages": [{"id": "a", "text": "x", "vector": {"a": 1}}]}, "passages[0].vector"),
        ("", {"passages": [{"id": "a", "text": "x", "metadata": {"a": {"b": 1}}}]}, "passages[0]"),
        ("", {"passages": [{"id": "a", "text": "x", "metadata": []}]}, "passages[0].metadata"),
        ("", {"passages": [{"id": "a", "text": "x", "if": {}}]}, "passages[0].if"),
        ("", {"passages": [{"id": "a", "text": "x", "if": {"absent": False}}]}, "passages[0].if.absent"),
        ("", {"passages": [{"id": "a", "text": "x", "if": {"absent": True, "position": 1}}]}, "passages[0].if"),
        ("", {"passages": [{"id": "a", "text": "x", "body": 1}]}, "passages[0].body"),
        ("", {"passages": [{"id": f"{number}", "text": "x"} for number in range(5)]}, "passages"),
        ("delete", {}, None),
        ("delete", {"ids": ["a"], "all": True}, None),
        ("delete", {"all": False}, "all"),
        ("delete", {"ids": []}, "ids"),
        ("delete", {"filter": {}}, "filter"),
        ("update", {"updates": [{"id": "a"}]}, "updates[0].metadata"),
        ("update", {"updates": [{"id": "a", "metadata": {"x": [1]}}]}, "updates[0]"),
    ],
    ids=range(23),
)
async def test_what_is_wrong_is_named(route: str, body: Any, param: str | None) -> None:
    server = Server(max_passages=4)
    message = check_error(await post(server, route, body), 400, "INVALID_ARGUMENT", param)
    if param is None:
        assert message == "the body should have one of ids, filter and all"


async def test_all_bad_records_are_named() -> None:
    response = await write(
        Server(), *({"id": f"n{number}", "text": " "} for number in range(30)), {"id": "good", "text": "x"}
    )
    message = check_error(response, 400, "INVALID_ARGUMENT", "passages[0]")
    assert all(
        f"passages[{number}] (id 'n{number}'): the text field 'text' is empty" in message for number in range(30)
    )
    assert "good" not in message


async def test_bodies_of_writes_have_a_bound_of_their_own() -> None:
    server = Server(max_body_bytes=1000, max_write_body_bytes=5000)
    fitting = {"passages": [{"id": "a", "text": "x" * 3000}]}
    assert (await post(server, "", fitting)).status_code == 200
    packed = gzip.compress(json.dumps(fitting).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert (await server.client.post("/v1/passages", content=packed, headers=headers)).status_code == 200
    check_error(await post(server, "", {"passages": [{"id": "a", "text": "x" * 6000}]}), 413, "PAYLOAD_TOO_LARGE")
    packed = gzip.compress(json.dumps({"passages": [{"id": "a", "text": "x" * 6000}]}).encode())
    check_error(await server.client.post("/v1/passages", content=packed, headers=headers), 413, "PAYLOAD_TOO_LARGE")
    for route in ("fetch", "delete/", "nothing"):
        check_error(await post(server, route, {"ids": ["x" * 3000]}), 413, "PAYLOAD_TOO_LARGE")


async def test_reading_keys_write_nothing() -> None:
    server = Server()
    reader, writer = keys.make(), keys.make()
    ring = KeyRing(None, f"{keys.line(reader, 'r')}\n{keys.line(writer, 'w', 'write')}")
    app = create_api(lambda: server.engine, server.settings, keys=ring)
    server.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal")
    for route, body in (
        ("", {"passages": [{"id": "a", "text": "x"}]}),
        ("delete", {"ids": ["a"]}),
        ("update", {"updates": []}),
    ):
        check_error(await post(server, route, body, x_api_key=reader), 403, "PERMISSION_DENIED")
    assert (await write(server, {"id": "a", "text": "x"}, x_api_key=writer)).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("the log cannot be reached"), 503), (DeadlineExceeded("repeat it"), 504)],
    ids=["503", "504"],
)
async def test_what_the_log_fails_with_is_told(error: Exception, status: int) -> None:
    server = Server()
    server.engine.error = error
    response = await write(server, {"id": "a", "text": "x"})
    check_error(response, status, error.code)  # type: ignore[attr-defined]


def test_openapi_shows_examples_and_the_key() -> None:
    document = Server().app.openapi()
    for path, schema in (
        ("/v1/passages", "UpsertBody"),
        ("/v1/passages/delete", "DeleteBody"),
        ("/v1/passages/update", "UpdateBody"),
    ):
        operation = document["paths"][path]["post"]
        assert [parameter["name"] for parameter in operation["parameters"]] == ["Idempotency-Key"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(schema)
        assert document["components"]["schemas"][schema]["examples"]
        assert "422" in operation["responses"]
    assert "if" in document["components"]["schemas"]["PassageFields"]["properties"]
