"""Versions of Pinecone's SDK over HTTP and gRPC; docs/clients.md shows what came of each call.

The version that is installed goes over gRPC here, over HTTP in test_vendor_clients.py. Older ones, each in an
environment of its own, are part of the long tests, since they are downloaded. `SHOAL_WRITE_CLIENTS=1` writes the rows
of what is run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pinecone
import pytest

from shoal.indexing.empty import create_index
from shoal.serving import keys
from shoal.settings import CreateSettings
from tests.support import pinecone_versions
from tests.support.dialects import ALIASES, ENCODER, RERANKER
from tests.support.environments import environment_of, installs
from tests.support.local_server import serving_locally
from tests.support.long import only_long
from tests.support.serving import free_port

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- versions -->", "<!-- end of versions -->"
HEAD = "| pinecone | over | client | call | what comes of it |\n| --- | --- | --- | --- | --- |"
WRITE = "SHOAL_WRITE_CLIENTS" in os.environ
OLDER = ("7.3.0", "5.1.0")
COURSE_S = 240


@dataclass(frozen=True)
class Served:
    """Where a server is asked, and with which key."""

    url: str
    address: str
    key: str

    def outcomes(self, python: str, transport: str) -> list[list[str]]:
        """What comes of each call of the version that an interpreter has."""
        command = [python, "-I", pinecone_versions.__file__, self.url, self.address, self.key, transport]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COURSE_S, cwd="/")
        assert ran.returncode == 0, ran.stderr
        outcomes: list[list[str]] = json.loads(ran.stdout.splitlines()[-1])
        return outcomes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose index began empty; each course leaves it empty."""
    folder, key, port = tmp_path_factory.mktemp("versions"), keys.make(), free_port()
    create_index(CreateSettings(index=str(folder / "articles"), encoder=ENCODER))
    (folder / "keys.txt").write_text(keys.line(key, "writers", "write") + "\n")
    options = {"reranker": RERANKER, "model_alias": ALIASES, "api_keys_file": str(folder / "keys.txt")}
    with serving_locally(folder / "articles", grpc_port=port, **options) as url:
        yield Served(url, f"127.0.0.1:{port}", key)


def rows_of_page() -> list[list[str]]:
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.strip().splitlines()[2:]]


def check(version: str, transport: str, outcomes: list[list[str]]) -> None:
    """Compare what came of calls with the page, or write it there."""
    rows = [[version, transport, *outcome] for outcome in outcomes]
    known = rows_of_page()
    if not WRITE:
        assert [row for row in known if row[:2] == [version, transport]] == rows
        return
    order = [pinecone.__version__, *OLDER]
    kept = [row for row in known if row[:2] != [version, transport] and row[0] in order]
    table = sorted([*kept, *rows], key=lambda row: (order.index(row[0]), row[1]))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    text = "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in table)])
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


def test_the_version_that_is_installed_speaks_grpc(served: Served) -> None:
    outcomes = served.outcomes(sys.executable, "grpc")
    if WRITE:
        check(pinecone.__version__, "grpc", outcomes)
    # A newer one may be installed than the one of the page.
    newest = [row for row in rows_of_page() if row[0] not in OLDER]
    assert [row[2:] for row in newest] == outcomes


@only_long
@installs
@pytest.mark.parametrize("version", OLDER)
def test_older_versions_speak_both(version: str, served: Served) -> None:
    python = environment_of(f"pinecone[grpc]=={version}")
    for transport in ("grpc", "http"):
        check(version, transport, served.outcomes(str(python), transport))
