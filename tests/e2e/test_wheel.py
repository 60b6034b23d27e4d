"""What people install: the wheel in an empty environment, without the repository, in an empty folder.

The environment that builds and serves takes its dependencies from the one that runs the tests, because to install them
takes minutes; but `shoal` itself is the wheel's. The environment of the client is a real one, from the registry.
"""

import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.support.marks import assert_none_is_left, new_mark
from tests.support.serving import free_port

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "jobs", "serve", "shoal")
DATA = (
    *("cluster/serve.yaml", "cluster/grafana.json", "shoal/index_root/FORMAT.md", "shoal/py.typed"),
    *("serve/web/page/index.html", "serve/web/page/main.js", "serve/web/page/page.css", "serve/web/page/mark.svg"),
)
CLIENT_BYTES = 60_000_000
"""What the client may take with its dependencies."""
UNREACHABLE = re.compile("Retrying|Connection|Timeout|Temporary failure")
REMEDY = "pip install 'shoal[cpu]', or 'shoal[gpu]' on a machine with an NVIDIA GPU\n"
PASSAGES = [
    {"id": f"p{number}", "text": f"the {fish} {habit}"}
    for number, (fish, habit) in enumerate(
        (fish, habit) for fish in ("cod", "eel", "ray", "carp", "pike") for habit in ("sleeps", "hunts", "hides")
    )
]


class Environment:
    """A virtual environment with the wheel in it, and the commands that it offers."""

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(symlinks=True).create(folder)
        self.programs = folder / "bin"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))

    def install(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pip", "--python", str(self.programs / "python"), "install", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def variables(self) -> dict[str, str]:
        """Nothing of the user's, and nothing that leads to the repository."""
        ours = ("SHOAL_", "RAY_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "COLUMNS": "120", "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}

    def run(self, folder: Path, program: str, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, cwd=folder, env=self.variables(), capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, folder: Path, *arguments: str) -> Any:
        return json.loads(self.run(folder, "shoal", *arguments, "--json").stdout)


def built(source: Path, folder: Path, target: str) -> Path:
    """The distribution that a build of a source tree leaves in a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    [distribution] = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return distribution


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that both are proven."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return built(folder / sdist.name.removesuffix(".tar.gz"), folder, "wheel")


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install 'shoal[cpu]'` leaves it."""
    environment = Environment(tmp_path_factory.mktemp("whole"))
    done = environment.install("--no-deps", "--no-index", str(wheel))
    assert done.returncode == 0, done.stderr
    # A line of a .pth file is put on the path, but the .pth files in that folder, the repository's too, are not read.
    (environment.packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return environment


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install shoal` leaves it."""
    environment = Environment(tmp_path_factory.mktemp("client"))
    done = environment.install(str(wheel))
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, but for a corpus."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "passages.jsonl").write_text("".join(f"{json.dumps(passage)}\n" for passage in PASSAGES))
    return folder


@pytest.fixture(scope="module")
def server(whole: Environment, folder: Path) -> Iterator[str]:
    """URL of a server over an index, both made with the installed command; SIGTERM ends it without a trace."""
    options = ("--encoder", "hashing:64", "--shards", "2", "--workers", "1")
    summary = whole.json(folder, "build", "--source", "passages.jsonl", "--index", "index", *options)
    assert (summary["passages"], summary["shards"]) == (len(PASSAGES), 2)
    port, mark = free_port(), new_mark()
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [str(whole.programs / "shoal"), "serve", "--index", "index", "--port", str(port)],
            cwd=folder,
            env={**whole.variables(), mark: "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"ready http://127.0.0.1:{port}\n", (folder / "stderr").read_text()
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(timeout=60) == 0, (folder / "stderr").read_text()
        assert_none_is_left(mark, within_s=10)
    finally:
        process.kill()
        process.wait()


def test_the_wheel_holds_the_application_and_nothing_else(wheel: Path, sdist: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, f"shoal-{shoal.__version__}.dist-info"}
    assert set(DATA) <= names
    folders = {name.rpartition("/")[0] for name in names if name.endswith(".py")}
    assert {f"{folder}/__init__.py" for folder in folders} <= names  # a folder without one would be open to others
    ours = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert ours <= names
    with tarfile.open(sdist) as archive:
        tops = {member.name.split("/")[1] for member in archive}
    assert {*PACKAGES, "tests", "README.md", "LICENSE", "pyproject.toml"} <= tops
    assert not {".ci", "dist", ".venv"} & tops


def test_the_packages_are_those_of_the_wheel(whole: Environment, folder: Path) -> None:
    program = f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"
    found = whole.run(folder, "python", "-c", program).stdout.split()
    assert found == [str(whole.packages / name / "__init__.py") for name in PACKAGES]


def test_search(whole: Environment, folder: Path, server: str) -> None:
    answer = whole.json(folder, "search", "which carp hunts", "--url", server)
    assert answer["results"][0]["text"] == "the carp hunts"
    assert answer["coverage"]["answered"] == 2
    assert "the carp hunts" in whole.run(folder, "shoal", "compare", "carp hunts", "--url", server).stdout
    [version] = whole.json(folder, "index", "list", "--index", "index")["versions"]
    assert (version["version"], version["state"]) == (answer["index_version"], "current")


def test_a_folder_that_would_hide_the_application_is_refused(whole: Environment, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text("raise SystemExit('not ours')\n")
    failed = whole.run(tmp_path, "shoal", "serve", "--index", "none", code=2)
    assert failed.stderr.startswith(f"error: {tmp_path / 'serve.py'} would be taken for the package `serve` of Shoal")


def test_the_client_is_small(client: Environment) -> None:
    names = {found.metadata["Name"].lower() for found in distributions(path=[str(client.packages)])}
    assert {"shoal", "httpx", "orjson", "pydantic", "rich", "typer"} <= names
    assert not {"numpy", "pyarrow", "ray", "torch", "faiss-cpu"} & names
    assert sum(path.stat().st_size for path in client.packages.rglob("*") if path.is_file()) < CLIENT_BYTES


def test_the_client_asks_a_server(client: Environment, folder: Path, server: str, tmp_path: Path) -> None:
    answer = client.json(tmp_path, "search", "which carp hunts", "--url", server)
    assert answer["results"][0]["text"] == "the carp hunts"
    assert "the carp hunts" in client.run(tmp_path, "shoal", "compare", "carp hunts", "--url", server).stdout
    served = client.json(tmp_path, "index", "activate", answer["index_version"], "--url", server)
    assert served["version"] == answer["index_version"]
    program = f"import shoal\nwith shoal.Client({server!r}) as client: print(client.index().passages)"
    assert client.run(tmp_path, "python", "-c", program).stdout == f"{len(PASSAGES)}\n"
    program = (
        "import asyncio, shoal\n"
        f"async def main():\n    async with shoal.AsyncClient({server!r}) as client: return await client.ready()\n"
        "print(asyncio.run(main()))"
    )
    assert client.run(tmp_path, "python", "-c", program).stdout == "True\n"
    assert client.json(tmp_path, "keys", "--name", "me")["key"]


def test_the_client_alone_says_what_to_install(client: Environment, tmp_path: Path) -> None:
    assert "compare" in client.run(tmp_path, "shoal", "--help").stdout
    lacking = (
        ("shoal", "build", "--source", "passages.jsonl", "--index", "index"),
        ("shoal", "build", "--source", "/a", "--index", "/b", "--address", "http://127.0.0.1:9"),
        ("shoal", "serve", "--index", "index"),
        ("shoal", "index", "list", "--index", "index"),
        ("shoal", "index", "rollback", "--index", "index"),
        ("shoal", "plan", "--passages", "1e6"),
        ("python", "-m", "serve.run", "--index", "index"),
        ("python", "-m", "jobs.train_reranker", "--data", "judged", "--output", "reranker"),
        ("python", "-m", "cluster.local"),
    )
    for command in lacking:
        done = client.run(tmp_path, *command, code=2)
        assert done.stdout == "", command
        assert done.stderr.startswith("error: this needs more than the client ("), command
        assert done.stderr.endswith(REMEDY), command
        assert done.stderr.count("\n") == 1, command
    done = client.run(tmp_path, "shoal", "eval", "--dataset", "judged", "--url", "http://127.0.0.1:9", code=2)
    assert "pip install 'shoal[" in done.stderr
    assert not list(tmp_path.iterdir())
