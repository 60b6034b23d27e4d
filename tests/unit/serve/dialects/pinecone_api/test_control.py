"""Pinecone's control plane over the one index that is served."""

from typing import Any

import httpx
import pytest

from tests.support.api_server import check_error

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_index_is_listed_and_described_under_the_address_that_was_asked(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/indexes")).json()["indexes"]
    assert (await client.get("/indexes/articles")).json() == model
    assert (model["name"], model["host"]) == ("articles", "http://localhost/i/articles")
    assert (model["dimension"], model["metric"], model["status"]) == (64, "cosine", {"ready": True, "state": "Ready"})
    headers = {"host": "127.0.0.1:9999", "x-forwarded-proto": "https"}
    described = (await client.get("/indexes/articles", headers=headers)).json()
    assert described["host"] == "https://127.0.0.1:9999/i/articles"


async def test_another_index_is_not_found(client: httpx.AsyncClient) -> None:
    assert "'articles'" in check_error(await client.get("/indexes/movies"), 404, "NOT_FOUND", "name")
    for path in ("/i/movies/query", "/i/movies/describe_index_stats"):
        check_error(
            await client.post(path, json={"topK": 1, "id": "a"} if "query" in path else {}), 404, "NOT_FOUND", "name"
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", "/indexes", {"name": "articles", "schema": {"fields": {}}}, 409, "CONFLICT", "name"),
        ("POST", "/indexes", {"name": "movies", "dimension": 3}, 400, "INVALID_ARGUMENT", None),
        ("PATCH", "/indexes/articles", {"deletion_protection": "enabled"}, 400, "INVALID_ARGUMENT", None),
        ("PATCH", "/indexes/movies", {}, 404, "NOT_FOUND", "name"),
        ("DELETE", "/indexes/articles", None, 400, "INVALID_ARGUMENT", None),
        ("DELETE", "/indexes/movies", None, 404, "NOT_FOUND", "name"),
    ],
)
async def test_nothing_is_created_changed_or_deleted(
    client: httpx.AsyncClient, method: str, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    message = check_error(await client.request(method, path, json=body), status, code, param)
    assert "articles" in message
    assert len((await client.get("/indexes")).json()["indexes"]) == 1
