"""A real Chromium over real servers without Ray. Where there is none, the tests are skipped and say what to install."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serve.local import LocalServer, local_api
from shoal.engine.engine import LocalEngine
from shoal.records import Passage
from shoal.settings import LateSettings, LexicalSettings, RunSettings, ServeSettings
from tests.support.indexes import publish

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 60_000
"""How long something may take to appear on a busy machine. Nothing here is a goal."""
COLOURS, ANIMALS = ("red", "green", "blue", "black", "white"), ("fish", "heron", "otter", "snail", "newt", "frog")


def animals(marker: str) -> list[Passage]:
    """Passages with a field of every type; `marker` is a word that all of them hold."""
    return [
        Passage(
            f"p{number}",
            f"the {COLOURS[number % 5]} {ANIMALS[number % 6]} number n{number} {marker}",
            f"Animal {number}" if number % 4 else None,
            {
                "colour": COLOURS[number % 5],
                "number": number,
                "weight": number / 4,
                "tame": number % 3 == 0,
                "seen": f"20{10 + number % 10}-06-15",
                "tags": [ANIMALS[number % 6], "wet, cold"],
            },
        )
        for number in range(40)
    ]


@contextmanager
def served(
    make_app: Callable[[], Awaitable[FastAPI]], settings: RunSettings, close: Callable[[], None]
) -> Iterator[str]:
    """Serve an application from a thread on a free port; yields its URL."""
    ready, held = threading.Event(), dict[str, Any]()

    async def serve() -> None:
        held["server"] = LocalServer(await make_app(), settings, ready.set)
        try:
            await held["server"].serve([listening])
        finally:
            close()

    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not ready.wait(0.1):
        assert thread.is_alive(), "the server has failed"
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        held["server"].should_exit = True
        thread.join()


@contextmanager
def served_index(folder: Path, make: Callable[[str], list[Passage]] = animals, **settings: Any) -> Iterator[str]:
    """Publish versions v1, then v2, which is current, of passages, and serve them as `shoal serve --local` does."""
    root = folder / "index"
    for version in ("v1", "v2"):
        publish(root, version, make(f"of-{version}"), lexical=LexicalSettings(), late=LateSettings(late_dims=16))
    chosen = RunSettings(index=str(root), local=True, reranker="overlap", **settings)
    engine = LocalEngine(chosen.part(ServeSettings))

    async def make_app() -> FastAPI:
        await engine.open()
        return local_api(engine, chosen)

    with served(make_app, chosen, engine.close) as url:
        yield url


@pytest.fixture(scope="module")
def url(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over the animals, for tests that change nothing in it."""
    with served_index(tmp_path_factory.mktemp("animals")) as served_url:
        yield served_url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the tests of one file: Playwright keeps an event loop that tests of asyncio could not share."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ModuleNotFoundError:
        pytest.skip("there is no Playwright here: pip install playwright")
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium, or make browser")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page in a context of its own, and everything that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[Any] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request))

    def searches(self) -> list[dict[str, Any]]:
        """Bodies of the searches that the page has sent to show an answer."""
        bodies = [request.post_data_json for request in self.requests if request.url.endswith("/v1/search")]
        return [body for body in bodies if body.get("explain")]


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    """A tab of a desktop; nothing may go wrong in it but refusals of the server, which tests of these ask for."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    opened = Tab(context.new_page())
    yield opened
    context.close()
    assert [error for error in opened.errors if "the server responded with a status of" not in error] == []
