"""The build as a user runs it: a local command, a submitted job, and every mistake that a command line allows."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal.index_root import versions
from shoal.index_root.storage import Storage
from tests.support.long import only_long
from tests.support.marks import assert_none_is_left, marked, new_mark

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "passages.jsonl"
    lines = [json.dumps({"id": f"p{n}", "text": f"passage {n} about topic{n % 30}"}) for n in range(500)]
    bad = [
        '{"id": "broken", "text": ',
        '{"text": "no id"}',
        '{"id": "p7", "text": "a second p7"}',
        '{"id": "empty", "text": "  "}',
        json.dumps({"id": "long", "text": "x" * 10_000_000}),
        '{"id": "nan", "text": "a text", "weight": NaN}',
        '{"id": "dict", "text": "a text", "nested": {"a": 1}}',
        '{"id": "number", "text": 12}',
    ]
    path.write_bytes("\n".join([*lines, *bad]).encode() + b'\n{"id": "bytes", "text": "\xff\xfe"}\n')
    return path


def arguments(corpus: Path, index: Path) -> list[str]:
    options = ["--source", str(corpus), "--index", str(index), "--encoder", "hashing:32", "--shards", "2"]
    return ["-m", "jobs.build_index", *options]


def command(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, *more],
        cwd=ROOT,
        env=alone | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The summary and the log of a local build."""
    result = command(*arguments(corpus, tmp_path_factory.mktemp("local") / "index"), "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def content(index: str, version: str) -> dict[str, Any]:
    body = versions.read_manifest(Storage(index), version).model_dump(exclude={"version", "created_at"})
    for measured in (body["index"], *body["index"]["curve"]):
        del measured["latency_ms"]
    return body


@pytest.mark.parametrize("in_process_mib", ["0", "1"])
def test_the_worker_of_a_model_ends_in_peace(tmp_path: Path, in_process_mib: str) -> None:
    """A thread of Ray's that had run OpenVINO crashed it, and Ray said that a worker died."""
    corpus = tmp_path / "passages.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"p{n}", "text": f"fish {n} sleeps"}) + "\n" for n in range(9)))
    places = ["--source", str(corpus), "--index", str(tmp_path / "index")]
    done = command("-m", "jobs.build_index", *places, "--in-process-mib", in_process_mib)
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stderr + done.stdout


def test_good_records_are_kept_and_each_bad_one_is_reported(built: tuple[dict[str, Any], str]) -> None:
    summary, log = built
    assert (summary["passages"], summary["duplicates"], summary["rejected"]) == (502, 1, 6)
    assert summary["left_out"] == {"nested: nested": 1, "weight: not finite": 1}
    report = Path(summary["index"], "versions", summary["version"], "rejected.jsonl").read_text().splitlines()
    lines = {record["line"]: record for record in map(json.loads, report)}
    assert sorted(lines) == [501, 502, 503, 504, 505, 508, 509]
    assert lines[503]["reason"] == "duplicate id, first in passages.jsonl:8"
    for line, word in (
        (501, "JSON"),
        (502, "id"),
        (504, "text"),
        (505, "max_passage_bytes"),
        (508, "text"),
    ):
        assert word in lines[line]["reason"], lines[line]
    assert "UTF-8" in lines[509]["reason"]
    for word in ("passages", "duplicates", "rejected", "shards", "speed", summary["version"], "passages.jsonl:501: "):
        assert word in log
    assert "Traceback" not in log
    assert "ray" not in log.lower()


def test_a_submitted_job_stores_the_same_bytes(
    local: ModuleType, corpus: Path, built: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    with local.LocalCluster(nodes=1, cpus_per_node=2) as cluster:
        submit = ["-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.job_url, "--working-dir", "."]
        job = command(*submit, "--", sys.executable, *arguments(corpus, tmp_path / "index"), **cluster.env)
    assert job.returncode == 0, job.stdout + job.stderr
    current = versions.read_current(Storage(str(tmp_path / "index")))
    assert current is not None
    summary, _ = built
    assert content(str(tmp_path / "index"), current.version) == content(summary["index"], summary["version"])


def test_the_same_command_again_builds_nothing(built: tuple[dict[str, Any], str], corpus: Path) -> None:
    summary, _ = built
    again = command(*arguments(corpus, Path(summary["index"])), "--json")
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr
    assert json.loads(again.stdout)["built"] is False


def test_a_gate_that_refuses_keeps_the_version_published_but_not_current(
    built: tuple[dict[str, Any], str], corpus: Path, tmp_path: Path
) -> None:
    summary, _ = built
    storage = Storage(summary["index"])
    before = versions.read_current(storage)
    (tmp_path / "judged" / "qrels").mkdir(parents=True)
    queries = {"kept": "passage 7 about topic7", "lost": "passage 450 about topic0"}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (tmp_path / "judged" / "queries.jsonl").write_text("\n".join(lines))
    (tmp_path / "judged" / "qrels" / "test.tsv").write_text("query\tpassage\tscore\nkept\tp7\t1\nlost\tp450\t1\n")
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_bytes(b"\n".join(corpus.read_bytes().splitlines()[:100]))
    gate = ["--gate", f"qrels={tmp_path / 'judged'},max_drop=0.01", "--json"]
    refused = command(*arguments(fewer, Path(summary["index"])), *gate)
    assert refused.returncode == 3, refused.stderr
    outcome = json.loads(refused.stdout)
    assert (outcome["built"], outcome["activated"], outcome["gate"]["passed"]) == (True, False, False)
    assert [(one["id"], one["before"], one["now"]) for one in outcome["gate"]["fallen"]] == [("lost", 1.0, 0.0)]
    assert "1.0000 -> 0.0000 lost: passage 450 about topic0" in refused.stderr
    assert outcome["version"] in versions.list_versions(storage)
    assert versions.verify(storage, outcome["version"]) == []
    assert versions.read_current(storage) == before


def embedding(index: Path, mark: str) -> bool:
    return any(index.glob("staging/*/units/*.json"))


def starting(index: Path, mark: str) -> bool:
    return any("raylet" in command for command in marked(mark).values())


def only_itself(process: "subprocess.Popen[str]") -> None:
    process.terminate()


def ctrl_c(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process of the group


@pytest.mark.parametrize(
    ("moment", "stop", "on_ray"), [(embedding, only_itself, True), (starting, ctrl_c, True), (embedding, ctrl_c, False)]
)
def test_a_build_that_is_stopped_leaves_nothing_but_what_it_committed(
    moment: Callable[[Path, str], bool], stop: Callable[[Any], None], on_ray: bool, corpus: Path, tmp_path: Path
) -> None:
    index, mark = tmp_path / "index", new_mark()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shoal = [sys.executable, "-c", "from shoal.cli.main import main; main()", "build"]
    with subprocess.Popen(
        [*shoal, *arguments(corpus, index)[2:], "--unit-passages=2", f"--in-process-mib={0 if on_ray else 64}"],
        cwd=ROOT,
        env=environment | {mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not moment(index, mark):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        folders = set(re.findall(r"/tmp/shoal-\w+", " ".join(marked(mark).values())))
        stop(process)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert_none_is_left(mark, within_s=5)
    assert bool(folders) is on_ray
    assert not any(Path(folder).exists() for folder in folders)
    assert not (index / "CURRENT").exists()


@pytest.mark.parametrize(
    ("mistake", "word"),
    [
        (["--source", "/no/such/file.jsonl"], "/no/such/file.jsonl"),
        (["--shards", "0"], "--shards"),
        (["--source", "{folder}/empty.jsonl"], "empty.jsonl is empty"),
        (["--source", "{folder}/broken.parquet"], "broken.parquet is no whole Parquet file"),
        # These start a Ray each, and are in tests/integration/test_build.py and tests/unit/jobs without it.
        pytest.param(["--index-kind", "IVF,Nonsense"], "IVF,Nonsense", marks=only_long),
        pytest.param(["--threads", "200"], "--threads", marks=only_long),
        pytest.param(["--encoder", "/no/such/model"], "/no/such/model", marks=only_long),
    ],
)
def test_a_mistake_ends_with_exit_code_2_and_names_the_place(
    corpus: Path, tmp_path: Path, mistake: list[str], word: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    mistake = [part.replace("{folder}", str(tmp_path)) for part in mistake]
    result = command(*arguments(corpus, tmp_path / "index"), *mistake)
    assert result.returncode == 2, result.stderr
    assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "index").exists()


def test_a_relative_path_has_no_meaning_on_a_cluster(local: ModuleType, corpus: Path) -> None:
    with local.LocalCluster(nodes=1, cpus_per_node=1) as cluster:
        environment = cluster.env | {"RAY_ADDRESS": cluster.address}
        result = command(*arguments(corpus, Path("relative/index")), **environment)
    assert result.returncode == 2
    assert "relative/index" in result.stderr
