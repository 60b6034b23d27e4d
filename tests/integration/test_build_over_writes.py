"""A source is built on Ray over an index that clients go on writing to: what was written stays, the rest is the source.

The server is one without Ray; tests/unit/indexing/test_over_log.py has the stages of the build alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from shoal.index_root import versions
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from tests.support.history import entries_of
from tests.support.history_clients import REGISTER, REGISTERS, REVISION, writing_and_reading
from tests.support.indexes import passages
from tests.support.killing import ROOT, SERVED, check, written_root
from tests.support.long import only_long
from tests.support.servers import running, wait

OPERATIONS = 20
"""Of clients, after the build."""
PAUSE_S = 0.2
"""Seconds for which a client rests between two operations, so that the build has a share of the cores."""
PASSAGES = 40
"""In the source, beside the registers."""
MARKER = "spring"
"""A word of all of them."""
BUILD_S = 200.0
"""Seconds that a build may take."""


def source(path: Path, marker: str, count: int) -> Path:
    """So many passages with a word of their own, and all registers as nobody has written them."""
    lines = [{"id": each.id, "text": each.text, **each.metadata} for each in passages(count, marker)]
    lines += [
        {"id": f"r{number}", "text": f"{REGISTER}{number} of the source", REGISTER: number, REVISION: 0}
        for number in range(REGISTERS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def build(corpus: Path, root: Path) -> dict[str, Any]:
    """Build on a private Ray; returns the summary."""
    command = [sys.executable, "-m", "jobs.build_index", "--source", str(corpus), "--index", str(root), "--json"]
    done = subprocess.run(
        [*command, "--encoder", "hashing:64", "--shards", "2"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def written(root: Path) -> set[str]:
    """Documents that the log holds something of."""
    log = entries_of(Log.open(str(root)).read(0))
    return {document for entry in log for request in entry.requests for document in request.documents}


def served(url: str, query: str, version: str) -> set[str] | None:
    """Ids that are found by words; None while another version is served."""
    body = {"query": query, "mode": "lexical", "top_k": 100, "top_n": 100}
    answer = httpx.post(f"{url}/v1/search", json=body, timeout=60).json()
    return {result["id"] for result in answer["results"]} if answer["index_version"] == version else None


@only_long
def test_a_source_is_built_over_a_log_while_clients_write(tmp_path: Path) -> None:
    root = written_root(tmp_path)
    with running(tmp_path, root, "--local", *SERVED) as server:
        server.wait_ready()
        with writing_and_reading(server.url, seed=3, pause_s=PAUSE_S) as clients:
            wait(lambda: len(written(root)) == REGISTERS)
            begun = Log.open(str(root)).end()  # the build takes in all up to here, and clients write beyond what it has
            version = build(source(tmp_path / "source.jsonl", MARKER, PASSAGES), root)["version"]
            complete_to = versions.read_manifest(Storage(str(root)), version).complete_to
            assert begun <= complete_to < Log.open(str(root)).end()
            wait(lambda: served(server.url, MARKER, version) is not None)
            assert served(server.url, MARKER, version) == {f"p{number}" for number in range(PASSAGES)}
            assert served(server.url, "source", version) == set()
            clients.wait(OPERATIONS)
            clients.stop()
            clients.repeat(server.url)
            clients.read_all(server.url)
    check(clients, root, one_replica=True)
