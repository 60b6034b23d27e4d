"""Types that openapi-typescript makes of our OpenAPI document, used as an application would."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from serve.web.api import create_api
from shoal.settings import ServeSettings

PACKAGES = ("openapi-typescript@7.13.0", "typescript@5.9.3")
OPTIONS = ("--default-non-nullable=false",)
"""Without it, fields of requests that have a default would have to be given."""
NPM_OPTIONS = ("--loglevel=error", "--fetch-retries=1", "--no-audit", "--no-fund", "--no-package-lock")
"""With --silent npm would not say why it fails."""
PATIENCE = 120
"""Seconds for both packages; a test has 300."""
UNREACHABLE = (
    "ENOTFOUND",
    "ETIMEDOUT",
    "ECONNREFUSED",
    "ECONNRESET",
    "EAI_AGAIN",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "network",
)
"""Words of npm where there is no registry."""
SOURCES = Path(__file__).parents[1] / "support" / "typescript"


@pytest.fixture(scope="module")
def tools(request: pytest.FixtureRequest) -> Path:
    """Where npm has put the tools; the cache of pytest keeps them."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = request.config.cache.mkdir("typescript")
    programs = folder / "node_modules" / ".bin"
    if not (programs / "openapi-typescript").exists() or not (programs / "tsc").exists():
        command = [npm, "install", *NPM_OPTIONS, "--prefix", str(folder), *PACKAGES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.skip("the package registry does not answer")
        if done.returncode and any(word in done.stdout + done.stderr for word in UNREACHABLE):
            pytest.skip("the package registry cannot be reached")
        assert done.returncode == 0, done.stdout + done.stderr
    return programs


def no_engine() -> None:
    raise AssertionError("nothing is asked")


@pytest.fixture(scope="module")
def types(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the types of the whole document, as `schema.d.ts`."""
    folder = tmp_path_factory.mktemp("typescript")
    document = create_api(no_engine, ServeSettings(index="ROOT")).openapi()  # type: ignore[arg-type]
    (folder / "openapi.json").write_text(json.dumps(document), "utf-8")
    command = [str(tools / "openapi-typescript"), "openapi.json", *OPTIONS, "--output", "schema.d.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def compiled(tools: Path, types: Path, source: str) -> str:
    """What the compiler says of a program that uses the types."""
    shutil.copy(SOURCES / "tsconfig.json", types)
    (types / "search.ts").write_text(source, "utf-8")
    done = subprocess.run([str(tools / "tsc"), "--project", str(types)], capture_output=True, text=True)
    assert bool(done.returncode) == bool(done.stdout), done.stderr
    return done.stdout


def test_an_application_compiles(tools: Path, types: Path) -> None:
    assert compiled(tools, types, (SOURCES / "search.ts").read_text("utf-8")) == ""


def test_what_the_api_has_not_does_not(tools: Path, types: Path) -> None:
    """The program marks what the compiler must refuse; without the marks it does."""
    source = (SOURCES / "search.ts").read_text("utf-8")
    marks = source.count("@ts-expect-error")
    assert marks == 3
    said = compiled(tools, types, source.replace("@ts-expect-error", ""))
    assert said.count("error TS") == marks


def test_the_page_names_the_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
    assert f"npx openapi-typescript http://127.0.0.1:8000/openapi.json {' '.join(OPTIONS)}" in page
