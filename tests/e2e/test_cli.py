"""The command line as a user has it: build twice, look, serve, ask, switch versions, stop."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shoal.system.processes import descendants

SHOAL = [sys.executable, "-c", "from shoal.cli.main import main; main()"]
CHECKOUT = Path(__file__).parents[2]
FISH = ["cod", "eel", "ray", "carp", "pike", "tuna", "perch", "trout", "salmon", "herring"]
PLACES = ["brook", "canal", "delta", "fjord", "lagoon", "marsh", "ocean", "reef", "river", "strait"]
HABITS = ["sleeps", "hunts", "hides", "spawns"]
START_S = 120
DEAD_PROXY = "http://127.0.0.1:9"
# `shoal build --address` whose job never ends.
FOLLOWING = """
import sys
from shoal.cli import cluster
from shoal.cli.main import main
cluster._require_cluster = lambda address: None
cluster._submission = lambda *_: [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]
main()
"""


class Built(NamedTuple):
    """An index root and its two versions."""

    root: str
    first: str
    second: str


def environment(**more: str) -> dict[str, str]:
    # No variable of the user's may reach in; the width decides what tables show; nobody asks a proxy for this machine.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOAL_", "RAY_"))}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "120", "http_proxy": DEAD_PROXY, **more}


def shoal(folder: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """Run a command to its end in a folder that is not the checkout, and return its stdout."""
    done = subprocess.run(
        [*SHOAL, *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 or "--json" in arguments else done.stdout + done.stderr


def parsed(stdout: str) -> Any:
    assert stdout.count("\n") == 1, stdout
    return json.loads(stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    texts = [f"the {fish} {habit} in the {place}" for fish in FISH for place in PLACES for habit in HABITS]
    records = [{"id": f"p{number}", "text": text, "number": number} for number, text in enumerate(texts)]
    lines = [*map(json.dumps, records), '{"id": "broken"']
    (folder / "fish.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "more.jsonl").write_text("\n".join([*lines, '{"id": "new", "text": "a whale breathes air"}']) + "\n")
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> Built:
    options = ["--index", "index", "--encoder", "hashing:64", "--shards", "2", "--workers", "1"]
    options += ["--late-interaction", "stored", "--late-dims", "32"]
    summary = shoal(folder, "build", "--source", "fish.jsonl", *options)
    assert "fish.jsonl:401" in summary
    second = parsed(shoal(folder, "build", "--source", "more.jsonl", *options, "--json"))
    assert (second["passages"], second["shards"]) == (401, 2)
    listed = parsed(shoal(folder, "index", "list", "--index", "index", "--json"))
    [newest, oldest] = [version["version"] for version in listed["versions"]]
    assert newest == second["version"]
    return Built("index", oldest, newest)


@pytest.fixture(scope="module")
def server(folder: Path, built: Built) -> Iterator[str]:
    """URL of a server that `shoal serve` runs; in the end it must stop cleanly and leave its port free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*SHOAL, "serve", "--index", built.root, "--reranker", "overlap", "--port", str(port)]
    with (folder / "serve.err").open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    hurry = threading.Timer(START_S, process.kill)
    hurry.start()
    try:
        line = process.stdout.readline()
        assert line == f"ready http://127.0.0.1:{port}\n", (folder / "serve.err").read_text()
        yield f"http://127.0.0.1:{port}"
        hurry.cancel()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, (folder / "serve.err").read_text()
        assert process.stdout.read() == ""
        with socket.socket() as probe:
            # Not bind: closed connections keep an address for a while, and that is no server left behind.
            assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    finally:
        hurry.cancel()
        process.kill()
        process.wait()


def test_the_index_is_shown_and_whole(folder: Path, built: Built) -> None:
    assert re.search(rf"current +{built.second} +401 +2 ", shoal(folder, "index", "list", "--index", "index"))
    shown = shoal(folder, "index", "show", built.first, SHOAL_INDEX="index")
    assert "400 of 401 records" in shown
    assert "hashing:64" in shown
    assert shoal(folder, "index", "verify", "--index", "index") == f"version {built.second} is whole\n"


def test_wrong_input_of_a_build_is_named(folder: Path) -> None:
    output = shoal(folder, "build", "--source", "nowhere.jsonl", "--index", "other", "--encoder", "hashing", code=2)
    assert "nowhere.jsonl" in output
    assert not (folder / "other").exists()


def test_an_index_that_does_not_exist_is_not_served(folder: Path) -> None:
    assert "nowhere" in shoal(folder, "serve", "--index", "nowhere", code=2)


def test_search_shows_both_stages(folder: Path, server: str) -> None:
    output = shoal(folder, "search", "which", "trout", "sleeps", "in", "the", "fjord", SHOAL_URL=server)
    first = next(line for line in output.splitlines() if line.startswith("  1 "))
    assert "the trout sleeps in the fjord" in first
    assert "2 of 2 shards answered (100% of the passages)" in output
    assert "degraded" not in output


def test_search_json(folder: Path, server: str, built: Built) -> None:
    answer = parsed(shoal(folder, "search", "trout fjord", "--url", server, "--top-k", "9", "--top-n", "4", "--json"))
    assert answer["index_version"] == built.second
    assert answer["reranked"] is True
    assert len(answer["results"]) == 4
    assert all(1 <= result["retrieval_rank"] <= 9 for result in answer["results"])
    plain = parsed(shoal(folder, "search", "trout fjord", "--url", server, "--top-n", "4", "--no-rerank", "--json"))
    assert [result["retrieval_rank"] for result in plain["results"]] == [1, 2, 3, 4]


def test_search_reranked_in_the_shards(folder: Path, server: str) -> None:
    answer = parsed(shoal(folder, "search", "trout hunts", "--url", server, "--mode", "dense", "--late", "--json"))
    assert (answer["reranked"], answer["reranker"], answer["degraded"]) == (True, "late", None)
    assert "trout hunts" in answer["results"][0]["text"].replace("the ", "")


def test_search_with_a_filter(folder: Path, server: str) -> None:
    condition = '{"number": {"$gte": 10, "$lt": 13}}'
    answer = parsed(shoal(folder, "search", "trout", "--url", server, "--filter", condition, "--json"))
    assert {result["id"] for result in answer["results"]} == {"p10", "p11", "p12"}
    assert "filter.nmber: this index has no such field; its fields are number (integer)" in shoal(
        folder, "search", "trout", "--url", server, "--filter", '{"nmber": 1}', code=2
    )


def test_compare(folder: Path, server: str) -> None:
    output = shoal(folder, "compare", "the salmon hides in the reef", "--url", server, "--top-n", "5")
    assert re.search(r"\d of 5 moved", output)
    assert len([line for line in output.splitlines() if re.match(r" +\d ", line)]) == 5


def test_what_the_server_refuses_is_the_users_fault(folder: Path, server: str) -> None:
    assert "top_k" in shoal(folder, "search", "x", "--top-k", "0", "--url", server, code=2)
    refused = parsed(shoal(folder, "index", "activate", "v9", "--url", server, "--json", code=2))
    assert refused["error"]["code"] == "NOT_FOUND"


def test_versions_are_switched_while_serving(folder: Path, server: str, built: Built) -> None:
    def served() -> str:
        version: str = parsed(shoal(folder, "search", "cod", "--url", server, "--json"))["index_version"]
        return version

    said = shoal(folder, "index", "activate", built.first, "--url", server)
    assert said == f"serving version {built.first}, previous is {built.second}\n"
    assert served() == built.first
    assert parsed(shoal(folder, "index", "rollback", "--url", server, "--json"))["version"] == built.second
    assert served() == built.second
    # What the server does is what the root says.
    listed = parsed(shoal(folder, "index", "list", "--index", "index", "--json"))["versions"]
    assert [version["state"] for version in listed] == ["current", "previous"]


def test_a_second_server_on_the_port_is_refused(folder: Path, server: str) -> None:
    port = server.rpartition(":")[2]
    assert f"port {port} is in use" in shoal(folder, "serve", "--index", "index", "--port", port, code=2)


def test_no_server_says_what_to_start(folder: Path) -> None:
    assert "shoal serve --index ROOT" in shoal(folder, "search", "x", "--url", "http://127.0.0.1:9", code=2)


def test_search_by_words(folder: Path, server: str) -> None:
    answer = parsed(
        shoal(folder, "search", "trout fjord", "--url", server, "--mode", "lexical", "--no-rerank", "--json")
    )
    assert answer["mode"] == "lexical"
    assert all("trout" in result["text"] or "fjord" in result["text"] for result in answer["results"])
    assert parsed(shoal(folder, "search", "trout fjord", "--url", server, "--json"))["mode"] == "hybrid"


def test_a_server_and_an_index_are_evaluated_alike(folder: Path, server: str) -> None:
    (folder / "judged" / "qrels").mkdir(parents=True)
    (folder / "judged" / "queries.jsonl").write_text('{"_id": "q1", "text": "the trout sleeps in the fjord"}\n')
    first = parsed(shoal(folder, "search", "the trout sleeps in the fjord", "--url", server, "--json"))["results"][0][
        "id"
    ]
    (folder / "judged" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\t{first}\t1\n")
    asked = parsed(shoal(folder, "eval", "--dataset", "judged", "--url", server, "--json"))
    read = parsed(
        shoal(
            folder,
            "eval",
            "--dataset",
            "judged",
            "--index",
            "index",
            "--reranker",
            "overlap",
            "--html",
            "r.html",
            "--json",
        )
    )
    names = [f"{mode}{stage}" for mode in ("dense", "lexical", "hybrid") for stage in ("", "+rerank")]
    assert [row["name"] for row in asked["rows"]] == [row["name"] for row in read["rows"]] == names
    assert [row["values"] for row in asked["rows"]] == [row["values"] for row in read["rows"]]
    assert asked["rows"][-1]["values"]["MRR@10"] == 1.0
    assert "<svg" in (folder / "r.html").read_text()


def test_the_end_of_following_a_job_ends_what_follows_it(folder: Path) -> None:
    options = ["build", "--source", "/a", "--index", "/b", "--address", "http://head:8265"]
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWING, *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        [submission] = descendants(process.pid)
        process.terminate()  # to it alone; Ctrl-C reaches its child as well
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.startswith("the job goes on; to stop it: ray job stop --address http://head:8265 build-index-")
    assert not Path(f"/proc/{submission}").exists()
