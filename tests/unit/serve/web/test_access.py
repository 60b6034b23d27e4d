"""Who is let in: keys, scopes, rates, rotation, and what a server may listen on without them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.web.access import LOOK_S, KeyRing, charge, check_exposure, shared_keys
from serve.web.api import create_api
from shoal import AsyncClient
from shoal.engine.description import IndexDescription
from shoal.errors import InvalidArgument, PermissionDenied, RateLimited, Unauthenticated
from shoal.records import SearchAnswer
from shoal.serving import keys
from shoal.testing.fakes import serve_settings
from tests.unit.serve.web.test_api import FakeEngine, check_error

READER, ADMIN, SLOW = keys.make(), keys.make(), keys.make()
LINES = "\n".join([keys.line(READER, "ui"), keys.line(ADMIN, "op", "admin"), keys.line(SLOW, "slow", rate="2/s")])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine(FakeEngine):
    """Charges queries as the ingress does."""

    async def search(self, requests: Any) -> list[SearchAnswer]:
        charge(len(requests))
        return await super().search(requests)


class Server:
    def __init__(self, path: Path | None = None, lines: str = LINES, share: float = 1.0) -> None:
        self.clock = Clock()
        settings = serve_settings()
        self.engine = Engine(settings)
        ring = KeyRing(str(path) if path else None, lines, share, self.clock)
        app = create_api(self.engine, settings, keys=ring)
        self.transport = httpx.ASGITransport(app)
        self.http = httpx.AsyncClient(transport=self.transport, base_url="http://shoal")

    async def search(self, key: str | None, query: Any = "fish", **headers: str) -> httpx.Response:
        if key:
            headers["authorization"] = f"Bearer {key}"
        return await self.http.post("/v1/search", json={"query": query}, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {READER}"},
        {"authorization": f"bearer  {READER} "},
        {"authorization": READER},
        {"api-key": READER},
        {"Api-Key": READER, "authorization": "Basic dTpw"},
        {"x-api-key": READER},
    ],
)
async def test_a_key_is_taken_as_every_sdk_sends_it(headers: dict[str, str]) -> None:
    assert (await Server().search(None, **headers)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    ["", "Bearer", "Bearer ", f"Bearer {READER}x", "Basic dTpw", "x" * 5000, f"{READER} {READER}"],
    ids=range(7),  # keys are other ones in every process
)
async def test_without_a_key_nothing_is_read_and_nothing_told(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pulled = 0

    async def body() -> Any:
        nonlocal pulled
        pulled += 1
        yield b"{"

    server = Server()
    response = await server.http.post("/v1/search", content=body(), headers={"authorization": wrong} if wrong else {})
    message = check_error(response, 401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["connection"] == "close"
    assert "API key" in message
    assert pulled == 0
    assert not server.engine.requests
    assert READER not in response.text + caplog.text
    for path in ("/v1/index", "/v1/nothing", "/page/", "/healthz/", "http://shoal//healthz", "/healthz/../v1/index"):
        assert (await server.http.get(path)).status_code == 401, path


async def test_health_and_documentation_need_no_key_and_the_document_says_so() -> None:
    server = Server()
    for path in ("/healthz", "/readyz", "/docs"):
        assert (await server.http.get(path)).status_code == 200
    document = (await server.http.get("/openapi.json")).json()
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in document["paths"]["/v1/search"]["post"]
    assert "403" in document["paths"]["/v1/index/activate"]["post"]["responses"]


async def test_what_is_missing_is_told_to_the_log_and_not_to_those_who_have_no_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    server.engine.missing = ["version v7 of s3://bucket/private cannot be served"]
    for _ in range(2):
        response = await server.http.get("/readyz")
        message = check_error(response, 503, "UNAVAILABLE")
        assert "v7" not in response.text
        assert "private" not in response.text
        assert message == f"not ready: {response.json()['missing'][0]}"
        assert "log" in message
    assert [one.message for one in caplog.records if one.name == "ray.serve"] == [
        "not ready: version v7 of s3://bucket/private cannot be served"
    ]


async def test_a_key_that_reads_may_embed_and_rerank_and_nobody_may_without() -> None:
    server = Server()
    for path, body in (
        ("/v1/embed", {"inputs": ["fish"], "input_type": "query"}),
        ("/v1/rerank", {"query": "fish", "documents": ["document 1"]}),
    ):
        check_error(await server.http.post(path, json=body), 401, "UNAUTHENTICATED")
        allowed = await server.http.post(path, json=body, headers={"x-api-key": READER})
        assert allowed.status_code == 200, allowed.text


async def test_only_an_admin_chooses_what_is_served() -> None:
    server = Server()
    for path, body in (("activate", {"version": "v2"}), ("rollback", {})):
        for key, status in ((READER, 403), (ADMIN, 200)):
            response = await server.http.post(f"/v1/index/{path}", json=body, headers={"x-api-key": key})
            assert response.status_code == status, response.text
            if status == 403:
                assert "the API key ui may read only" in check_error(response, 403, "PERMISSION_DENIED")
    for key, status in ((READER, 403), (ADMIN, 200)):
        listed = await server.http.get("/v1/index/versions", headers={"x-api-key": key})
        assert listed.status_code == status, listed.text
    assert (await server.search(ADMIN)).status_code == 200
    assert (await server.http.get("/v1/index", headers={"x-api-key": READER})).status_code == 200


async def test_a_key_asks_no_more_than_its_rate() -> None:
    server = Server()
    assert [(await server.search(SLOW)).status_code for _ in range(3)] == [200, 200, 429]
    response = await server.search(SLOW)
    check_error(response, 429, "RATE_LIMITED")
    assert (await server.search(READER)).status_code == 200
    server.clock.now += 0.5
    assert [(await server.search(SLOW)).status_code for _ in range(2)] == [200, 429]
    server.clock.now += 1000
    assert (await server.search(SLOW, ["fish"] * 6)).status_code == 200  # four more than it has left
    server.clock.now += 2
    assert "Retry-After" in (await server.search(SLOW)).headers
    server.clock.now += 0.5
    assert (await server.search(SLOW)).status_code == 200


async def test_several_servers_share_the_rate_of_a_key() -> None:
    server = Server(lines=keys.line(SLOW, "slow", rate="2/s"), share=0.5)
    assert [(await server.search(SLOW)).status_code for _ in range(2)] == [200, 429]
    server.clock.now += 0.5
    assert (await server.search(SLOW)).status_code == 429
    server.clock.now += 0.5
    assert (await server.search(SLOW)).status_code == 200


async def test_keys_change_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    old, new = keys.make(), keys.make()

    def write(text: str) -> None:
        written = tmp_path / "written"
        written.write_text(text)
        written.replace(file)

    write(keys.line(old, "ui"))
    server = Server(file, "")
    assert [(await server.search(key)).status_code for key in (old, new)] == [200, 401]
    write(keys.line(old, "ui") + "\n" + keys.line(new, "ui"))
    assert (await server.search(new)).status_code == 401  # it has not looked again yet
    server.clock.now += LOOK_S
    assert [(await server.search(key)).status_code for key in (old, new)] == [200, 200]
    write(keys.line(new, "ui"))
    server.clock.now += LOOK_S
    assert [(await server.search(key)).status_code for key in (old, new)] == [401, 200]
    caplog.set_level(logging.ERROR, "ray.serve")
    for text, status in (
        (f"ui {old}\n{keys.line(new, 'ui')}", 200),  # one line is broken
        (f"ui {old}", 401),  # all that there are
        (keys.line(new, "ui"), 200),
        ("", 401),
    ):
        write(text)
        for _ in range(2):
            server.clock.now += LOOK_S
            assert [(await server.search(key)).status_code for key in (old, new)] == [401, status]
    assert old not in caplog.text


async def test_a_deleted_file_of_keys_revokes_them_and_one_that_cannot_be_read_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, file = keys.make(), tmp_path / "keys"
    file.write_text(keys.line(key, "ui"))
    server = Server(file, "")
    caplog.set_level(logging.ERROR, "ray.serve")
    with monkeypatch.context() as disk:
        file.write_text(f"# changed\n{keys.line(key, 'ui')}")

        def read_text(path: Path, *_: Any) -> str:
            raise OSError(5, "Input/output error")

        disk.setattr(Path, "read_text", read_text)
        for _ in range(2):
            server.clock.now += LOOK_S
            assert (await server.search(key)).status_code == 200
    assert "the API keys stay as they were" in caplog.text
    file.unlink()
    for _ in range(2):
        server.clock.now += LOOK_S
        assert (await server.search(key)).status_code == 401
    file.write_text(keys.line(key, "ui"))
    server.clock.now += LOOK_S
    assert (await server.search(key)).status_code == 200
    assert [record.levelname for record in caplog.records].count("ERROR") == 2


async def test_what_is_wrong_with_the_file_of_keys_is_told_to_those_who_have_one(tmp_path: Path) -> None:
    file, secret = tmp_path / "keys", keys.make()
    file.write_text(keys.line(SLOW, "ui"))
    server = Server(file, keys.line(READER, "fixed"))

    async def problem() -> str | None:
        server.clock.now += LOOK_S
        answer = await server.http.get("/v1/index", headers={"authorization": f"Bearer {READER}"})
        assert answer.status_code == 200
        told: str | None = answer.json()["problem"]
        return told

    assert await problem() is None
    file.write_text(f"ui {secret}\n{keys.line(SLOW, 'ui')}")
    for _ in range(2):
        assert f"{file}, line 1: the hash should be" in (told := await problem() or "")
        assert secret not in told
    file.unlink()
    assert "cannot be read" in (await problem() or "")
    assert (await server.search(SLOW)).status_code == 401
    file.write_text(keys.line(SLOW, "ui"))
    assert await problem() is None


async def test_it_stands_beside_what_is_wrong_with_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(keys.line(SLOW, "ui"))
    server = Server(tmp_path / "keys", keys.line(READER, "fixed"))
    described = replace(await server.engine.describe(), problem="v2 cannot be served")

    async def describe() -> IndexDescription:
        return described

    monkeypatch.setattr(server.engine, "describe", describe)
    (tmp_path / "keys").write_text("nonsense")
    server.clock.now += LOOK_S
    answer = await server.http.get("/v1/index", headers={"authorization": f"Bearer {READER}"})
    assert answer.json()["problem"].startswith("v2 cannot be served; API keys that are not in the file any more")


def test_a_process_has_one_key_ring(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(keys.line(SLOW, "ui"))
    ring = shared_keys(str(tmp_path / "keys"), 0.5)
    assert ring is not None
    assert shared_keys(str(tmp_path / "keys"), 0.5) is ring


def test_a_server_that_is_to_have_keys_does_not_start_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    assert KeyRing.of(None) is None
    with pytest.raises(InvalidArgument, match="cannot be read") as missing:
        KeyRing.of(str(tmp_path / "none"))
    assert missing.value.param == "api_keys_file"
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(InvalidArgument, match="holds no API key"):
        KeyRing.of(str(tmp_path / "empty"))
    monkeypatch.setenv(keys.VARIABLE, LINES.replace("\n", ";"))
    ring = KeyRing.of(str(tmp_path / "empty"))
    assert ring is not None
    assert ring.admit([READER]).key.name == "ui"
    monkeypatch.setenv(keys.VARIABLE, "# only this")
    with pytest.raises(InvalidArgument, match=f"{keys.VARIABLE} holds no API key"):
        KeyRing.of(None)


@pytest.mark.parametrize(
    ("host", "keyed", "anonymous", "fine"),
    [
        ("127.0.0.1", False, False, True),
        ("127.1.2.3", False, False, True),
        ("::1", False, False, True),
        ("localhost", False, False, True),
        ("0.0.0.0", False, False, False),
        ("::", False, False, False),
        ("10.0.0.1", False, False, False),
        ("", False, False, False),
        ("0.0.0.0", True, False, True),
        ("0.0.0.0", False, True, True),
    ],
)
def test_beyond_loopback_keys_are_needed_or_the_word_of_the_owner(
    host: str, keyed: bool, anonymous: bool, fine: bool
) -> None:
    if fine:
        check_exposure(host, keyed, anonymous)
        return
    with pytest.raises(InvalidArgument, match="without API keys") as refused:
        check_exposure(host, keyed, anonymous)
    assert refused.value.param == "--host"


async def test_the_client_sends_its_key_and_raises_what_it_is_refused_with(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    def client() -> AsyncClient:
        return AsyncClient("http://shoal", transport=server.transport, attempts=1)

    monkeypatch.setenv("SHOAL_API_KEY", f"{READER}\n")
    assert len((await client().search("fish", top_n=3)).results) == 3
    with pytest.raises(PermissionDenied):
        await client().activate("v2")
    monkeypatch.setenv("SHOAL_API_KEY", "nonsense")
    with pytest.raises(Unauthenticated):
        await client().search("fish")
    monkeypatch.setenv("SHOAL_API_KEY", SLOW)
    await client().search(["fish", "fowl"])
    with pytest.raises(RateLimited) as limited:
        await client().search("fish")
    assert limited.value.retry_after_s == 1
    for broken in ("a b", "schlüssel", "a\nb"):
        monkeypatch.setenv("SHOAL_API_KEY", broken)
        with pytest.raises(InvalidArgument, match="characters that no key has") as refused:
            client()
        assert broken not in refused.value.message
