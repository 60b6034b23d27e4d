"""Compressed bodies in both directions, and HEAD."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from serve.web.compression import _Unpacker, accepts_gzip
from tests.support.api_server import Server, check_error

GZIP = {"content-type": "application/json", "content-encoding": "gzip"}
QUERY = json.dumps({"query": "fish"}).encode()


async def post(server: Server, body: bytes, **headers: str) -> httpx.Response:
    return await server.client.post("/v1/search", content=body, headers={**GZIP, **headers})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/v1/index"])
async def test_head_is_get_without_the_body(path: str, server: Server) -> None:
    got, head = await server.client.get(path), await server.client.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert got.content
    assert head.content == b""
    for answer in (got, head):
        del answer.headers["x-request-id"]
    assert head.headers == got.headers


async def test_every_route_of_get_has_head(server: Server) -> None:
    paths = [path for path, operations in server.app.openapi()["paths"].items() if "get" in operations]
    assert len(paths) >= 3
    for path in paths:
        assert (await server.client.head(path)).status_code == (await server.client.get(path)).status_code


async def test_head_of_what_is_not_there_or_takes_no_get_is_refused_as_such(server: Server) -> None:
    assert (await server.client.head("/v1/nothing")).status_code == 404
    refused = await server.client.head("/v1/search")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"
    assert (await server.client.put("/v1/index")).headers["allow"] == "GET, HEAD"
    check_error(await server.client.get("/v1/search"), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", " gzip "])
async def test_a_gzip_body_is_read(coding: str, server: Server) -> None:
    plain = (await server.post({"query": "fish"})).json()
    for body in (gzip.compress(QUERY), gzip.compress(QUERY[:5]) + gzip.compress(QUERY[5:])):
        answer = await post(server, body, **{"content-encoding": coding})
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"] == plain["results"]
    assert (await post(server, QUERY, **{"content-encoding": "identity"})).status_code == 200


async def test_a_gzip_body_in_many_pieces_is_read(server: Server) -> None:
    async def pieces() -> Any:
        for byte in gzip.compress(QUERY):
            yield bytes([byte])

    answer = await server.client.post("/v1/search", content=pieces(), headers=GZIP)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1", "nonsense" * 100])
async def test_a_body_in_another_coding_is_refused(coding: str, server: Server) -> None:
    refused = await post(server, QUERY, **{"content-encoding": coding})
    check_error(refused, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert refused.headers["accept-encoding"] == "gzip"
    assert "send it plain, or with gzip" in refused.json()["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (QUERY, "not what its Content-Encoding says"),
        (gzip.compress(QUERY)[:-9], "ends within its gzip stream"),
        (gzip.compress(QUERY)[:-8] + b"damaged!", "not what its Content-Encoding says"),
        (gzip.compress(QUERY) + b"more", "not what its Content-Encoding says"),
        (gzip.compress(b"{"), "is not JSON"),
        (b"", "empty"),
    ],
)
async def test_a_body_that_is_no_whole_gzip_is_a_wrong_request(body: bytes, message: str, server: Server) -> None:
    refused = await post(server, body)
    check_error(refused, 400, "INVALID_ARGUMENT")
    assert message in refused.json()["message"]


async def test_a_bomb_is_refused_before_it_is_unpacked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(150_000_000)) * 4  # 600 MB in 600 kB, members after members
    assert len(bomb) < server.settings.max_body_bytes
    unpacked = 0
    unpack = _Unpacker.unpack

    def counted(self: _Unpacker, packed: bytes, *, is_last: bool) -> bytes:
        nonlocal unpacked
        part = unpack(self, packed, is_last=is_last)
        unpacked += len(part)
        return part

    monkeypatch.setattr(_Unpacker, "unpack", counted)
    refused = await post(server, bomb)
    check_error(refused, 413, "PAYLOAD_TOO_LARGE")
    assert unpacked <= server.settings.max_body_bytes + 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Bytes that each call of zlib got and gave."""
    recorded: list[tuple[int, int]] = []
    made = zlib.decompressobj

    class Recorded:
        def __init__(self, window: int) -> None:
            self._inner = made(window)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            part = self._inner.decompress(data, most)
            recorded.append((len(data), len(part)))
            return part

    monkeypatch.setattr(zlib, "decompressobj", Recorded)
    return recorded


def test_an_unpacker_holds_no_more_than_its_bound(calls: list[tuple[int, int]]) -> None:
    """Many members, each of a megabyte: what one call gives and what all give is bounded."""
    unpacker = _Unpacker(10_000)
    with pytest.raises(Exception, match="larger than 10000 bytes when unpacked"):
        unpacker.unpack(gzip.compress(bytes(4000)) * 2 + gzip.compress(bytes(10**6)), is_last=True)
    assert [given for _, given in calls] == [4000, 4000, 2001]


def test_many_empty_members_cost_no_more_than_their_number(calls: list[tuple[int, int]]) -> None:
    """After each member zlib copies all that it was given beyond it: 50,000 of them make a body of a megabyte."""
    member = gzip.compress(b"")
    body = 5000 * member + gzip.compress(QUERY)
    assert _Unpacker(10_000).unpack(body, is_last=True) == QUERY
    assert sum(got for got, _ in calls) < 5001 * 4096


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["deflate, GZIP;q=0.5"], True),
        (["br", "x-gzip"], True),
        (["*"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0, *"], False),
        (["*;q=0"], False),
        (["identity"], False),
        (["gzip;q=nonsense"], False),
    ],
)
def test_what_a_client_accepts(values: list[str], accepted: bool) -> None:
    assert accepts_gzip(values) is accepted


@pytest.fixture
def packing() -> Server:
    return Server(compress_bytes=2000)


@pytest.mark.parametrize(("accepts", "packed"), [("gzip", True), ("br", False), ("gzip;q=0", False), ("", False)])
async def test_a_large_answer_is_packed_for_who_accepts_it(accepts: str, packed: bool, packing: Server) -> None:
    body = {"query": "fish", "top_k": 40, "top_n": 40}
    headers = {"accept-encoding": accepts}
    async with packing.client.stream("POST", "/v1/search", json=body, headers=headers) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert int(answer.headers["content-length"]) == len(raw)
    text = gzip.decompress(raw) if packed else raw
    assert len(text) > 2000
    assert (len(raw) < len(text) / 2) is packed
    assert len(json.loads(text)["results"]) == 40


async def test_a_small_answer_is_left_as_it_is(packing: Server) -> None:
    answer = await packing.post({"query": "fish", "top_k": 1, "top_n": 1})
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


async def test_nothing_is_packed_where_the_server_shall_not() -> None:
    answer = await Server(compress_bytes=0).post({"query": "fish", "top_k": 40, "top_n": 40})
    assert "content-encoding" not in answer.headers
