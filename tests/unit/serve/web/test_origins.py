"""Which names a server answers to, and which pages may ask it."""

import httpx
import pytest

from serve.web.api import create_api
from serve.web.origins import LOOPBACK_NAMES
from shoal.testing.fakes import serve_settings
from tests.unit.serve.web.test_api import FakeEngine, check_error

PAGE = "https://search.example.org"


def client(hosts: list[str] | None, *origins: str) -> httpx.AsyncClient:
    settings = serve_settings(cors_origin=list(origins) or None)
    app = create_api(FakeEngine(settings), settings, hosts=hosts)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000")


LOCAL = [*LOOPBACK_NAMES, "search.internal"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.0.2.7", 200),  # an address: no page can make it its own
        ("search.internal", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("search.internal.evil.example", 403),
    ],
)
async def test_without_keys_a_server_answers_to_its_own_names_alone(host: str, status: int) -> None:
    """DNS rebinding: a page of evil.example lets its name point to 127.0.0.1."""
    async with client(LOCAL) as http:
        for method, path, body in (
            ("POST", "/v1/search", {"query": "fish"}),
            ("GET", "/v1/index", None),
            ("POST", "/v1/index/activate", {"version": "v2"}),
            ("GET", "/docs", None),
        ):
            response = await http.request(method, path, json=body, headers={"host": host})
            assert response.status_code == status, (method, path)
            if status == 403:
                assert "--allowed-hosts" in check_error(response, 403, "PERMISSION_DENIED")
        for path in ("/healthz", "/readyz"):
            assert (await http.get(path, headers={"host": host})).status_code == 200


async def test_any_name_where_there_is_no_list() -> None:
    async with client(None) as http:
        assert (await http.get("/v1/index", headers={"host": "search.example.org"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:8000"}, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://localhost"}, 200),  # TLS ends before the server
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:8000"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
async def test_pages_of_other_sites_cannot_ask(headers: dict[str, str], status: int) -> None:
    async with client(LOCAL) as http:
        for path, body in (("/v1/search", {"query": "fish"}), ("/v1/index/activate", {"version": "v2"})):
            response = await http.post(path, json=body, headers=headers)
            assert response.status_code == status
            if status == 403:
                assert "--cors-origin" in check_error(response, 403, "PERMISSION_DENIED")


async def test_a_link_on_any_page_may_lead_to_the_documentation() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with client(LOCAL) as http:
        assert (await http.get("/docs", headers=headers)).status_code == 200
        assert (await http.get("/v1/index", headers=headers)).status_code == 403
        assert (await http.get("/docs", headers={"sec-fetch-site": "cross-site"})).status_code == 403


async def test_a_named_page_is_let_in_and_no_other() -> None:
    page = {"origin": PAGE, "sec-fetch-site": "cross-site"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
    async with client(LOCAL, PAGE) as http:
        answer = await http.post("/v1/search", json={"query": "fish"}, headers=page)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        preflight = await http.options("/v1/search", headers={**page, **asked})
        assert preflight.status_code == 200
        assert "x-api-key" in preflight.headers["access-control-allow-headers"]
        assert "idempotency-key" in preflight.headers["access-control-allow-headers"]
        for origin in ("https://evil.example", f"{PAGE}.evil.example", "http://search.example.org"):
            other = await http.options("/v1/search", headers={**page, **asked, "origin": origin})
            check_error(other, 403, "PERMISSION_DENIED")
            assert "access-control-allow-origin" not in other.headers
