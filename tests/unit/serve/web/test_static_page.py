"""The page at `/`: who gets its files, under which headers, and that they stand for themselves."""

import re
from html.parser import HTMLParser

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from serve.web import static_page
from serve.web.access import KeyRing
from serve.web.api import create_api
from serve.web.static_page import FOLDER, PATHS
from shoal.serving import keys
from shoal.testing.fakes import serve_settings
from tests.support.api_server import FakeEngine, check_error

FILES = sorted(FOLDER.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def client(*, keyed: bool = False, page: bool = True) -> httpx.AsyncClient:
    settings = serve_settings(page=page)
    ring = KeyRing(None, keys.line(keys.make(), "reader")) if keyed else None
    app = create_api(FakeEngine(settings), settings, keys=ring)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shoal")


class Links(HTMLParser):
    """What an HTML file loads, what it runs by itself, and how it is styled by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("script", "img", "link"):
            self.loaded.add(named.get("src") or named.get("href") or "")
        self.inline += [name for name in named if name.startswith("on") or name == "style"]
        if tag == "style":
            self.inline.append(tag)


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_every_file_is_sent_under_a_strict_policy(path: str) -> None:
    async with client() as http:
        answer = await http.get(path)
    file = FOLDER / ("index.html" if path == "/" else path.rpartition("/")[2])
    assert (answer.status_code, answer.content) == (200, file.read_bytes())
    assert answer.headers["content-type"].split(";")[0] == TYPES[file.suffix]
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-request-id"]
    assert "set-cookie" not in answer.headers


async def test_a_browser_that_has_a_file_is_told_so() -> None:
    async with client() as http:
        tags = {path: (await http.get(path)).headers["etag"] for path in sorted(PATHS)}
        assert len(set(tags.values())) == len(PATHS)
        tag = tags["/page/main.js"]
        for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            answer = await http.get("/page/main.js", headers={"if-none-match": asked})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["content-security-policy"] == static_page.POLICY
        for asked in ('"other"', tags["/"], "", tag.strip('"')):
            assert (await http.get("/page/main.js", headers={"if-none-match": asked})).status_code == 200
        head = await http.head("/")
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tags["/"])
        assert int(head.headers["content-length"]) == (FOLDER / "index.html").stat().st_size


async def test_nothing_else_lies_below_the_page() -> None:
    async with client() as http:
        for path in (
            "/page",
            "/page/",
            "/page/index.html",
            "/page/../static_page.py",
            "/page/%2e%2e/api.py",
            "/index.html",
        ):
            check_error(await http.get(path), 404, "NOT_FOUND")
        check_error(await http.post("/", json={}), 405, "METHOD_NOT_ALLOWED")
        assert not [path for path in (await http.get("/openapi.json")).json()["paths"] if path in PATHS]


async def test_its_files_need_no_key_and_all_that_they_ask_for_does() -> None:
    async with client(keyed=True) as http:
        for path in sorted(PATHS):
            assert (await http.get(path)).status_code == 200, path
        for path in ("/page", "/page/", "/page/nothing.js", "/page/main.js/", "/page/../v1/index", "/v1/index"):
            assert (await http.get(path)).status_code == 401, path
        for path in ("/v1/search", "/v1/passages/fetch", "/v1/index/activate", "/v1/index/rollback"):
            assert (await http.post(path, json={})).status_code == 401, path


async def test_it_can_be_left_out() -> None:
    async with client(page=False) as http:
        for path in sorted(PATHS):
            check_error(await http.get(path), 404, "NOT_FOUND")
        assert (await http.get("/docs")).status_code == 200


async def test_links_lead_to_it_and_other_sites_cannot_load_its_files() -> None:
    async with client() as http:
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await http.get("/", headers=link)).status_code == 200
        assert (await http.get("/", headers={**link, "sec-fetch-mode": "no-cors"})).status_code == 403
        script = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "script"}
        assert (await http.get("/page/main.js", headers=script)).status_code == 403
        own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
        assert (await http.get("/page/main.js", headers=own)).status_code == 200


async def test_it_works_below_a_path() -> None:
    settings = serve_settings()
    below = Starlette(routes=[Mount("/search", create_api(FakeEngine(settings), settings))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(below), base_url="http://shoal") as http:
        for link in sorted(Links((FOLDER / "index.html").read_text("utf-8")).loaded):
            assert (await http.get(f"/search/{link}")).status_code == 200, link


def test_it_names_every_file_once_and_nothing_elsewhere() -> None:
    html = Links((FOLDER / "index.html").read_text("utf-8"))
    assert html.inline == []
    assert {f"/{link}" for link in html.loaded} == PATHS - {"/"}
    assert {file.name for file in FILES} == {path.rpartition("/")[2] or "index.html" for path in PATHS}
    for file in FILES:
        text = file.read_text("utf-8")
        outside = set(re.findall(r"[a-z]+://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert outside == set(), file.name


def test_no_text_becomes_html_and_each_script_imports_its_neighbours_alone() -> None:
    names = {file.name for file in FILES}
    for file in FOLDER.glob("*.js"):
        text = file.read_text("utf-8")
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "localStorage",
            "cookie",
        ):
            assert way not in text, (file.name, way)
        assert {name.removeprefix("./") for name in re.findall(r'from "([^"]+)"', text)} <= names, file.name
        assert len(text.splitlines()) <= 400, file.name
