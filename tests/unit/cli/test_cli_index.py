"""`shoal index` over an index root whose versions hold one small file."""

import hashlib
import inspect
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

import shoal.cli.server
from serve.versions.activation import PREPARE_S
from shoal.cli.index import prune
from shoal.cli.main import app
from shoal.client import clients as client
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout, versions
from shoal.index_root.manifest import CorpusStatistics, Counts, FileEntry, Manifest, ShardEntry, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.indexing.losses import BuildReport

FIRST, SECOND, THIRD, FOURTH = (f"2026112{day}T000000-0000000{day}" for day in (1, 2, 3, 4))


def publish(root: Path, version: str, **build: Any) -> None:
    data = f"vectors of {version}".encode()
    file = FileEntry(path="shard-00000/vectors.faiss", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = Manifest(
        version=version,
        plan=version[-8:] * 8,
        created_at=datetime(2026, 11, 22, tzinfo=UTC).isoformat(),
        encoder=Fingerprint(
            model="hashing",
            weights="v1",
            dim=8,
            pooling="mean",
            query_prompt="",
            passage_prompt="",
            max_length=128,
            dtype="float32",
        ),
        dim=8,
        index=VectorIndexInfo(kind="flat", search="", recall_at_10=1.0, latency_ms=0.25),
        shards=[ShardEntry(shard=0, count=1200, files=[file])],
        counts=Counts(input=1300, passages=1200, duplicates=60, rejected=40),
        statistics=CorpusStatistics(text_bytes=240_000, mean_text_bytes=200.0),
        fields={"year": "integer", "tags": "list", "pages": "integer", "remark": "mixed"},
        build={"source": "in.jsonl", "shards": None, **build},
    )
    storage = Storage(str(root))
    storage.write(f"{layout.version_dir(version)}/{file.path}", data)
    versions.publish(storage, manifest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (FIRST, SECOND, THIRD):
        publish(tmp_path, version)
    for version in (FIRST, SECOND):
        versions.activate(Storage(str(tmp_path)), version)
    return tmp_path


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(app, ["index", *arguments], env={"COLUMNS": "120", "SHOAL_INDEX": "", **variables})


def parsed(result: Result) -> Any:
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_create(tmp_path: Path) -> None:
    root = str(tmp_path / "index")
    result = run(
        "create", "--index", root, "--encoder", "hashing:8", "--metadata-types", "year:integer", "--shards", "2"
    )
    (version,) = versions.list_versions(Storage(root))
    assert result.stdout == f"created {root}: version {version} without passages, hashing:8, 8 dimensions\n"
    shown = parsed(run("show", "--index", root, "--json"))
    assert (shown["state"], shown["manifest"]["counts"]["passages"]) == ("current", 0)
    assert "0 of 0 records" in run("show", "--index", root).stdout
    assert run("verify", "--index", root).stdout == f"version {version} is whole\n"
    assert [row["passages"] for row in parsed(run("list", "--index", root, "--json"))["versions"]] == [0]
    again = run("create", "--index", root, "--dimension", "8", "--json")
    assert (again.exit_code, json.loads(again.stdout)["error"]["code"]) == (2, "CONFLICT")
    other = str(tmp_path / "other")
    created = parsed(run("create", "--index", other, "--dimension", "8", "--json"))
    assert {**created, "version": None} == {
        "index": other, "version": None, "shards": 1, "encoder": "none:8", "dim": 8, "fields": {}
    }  # fmt: skip


def test_list(root: Path) -> None:
    result = run("list", "--index", str(root))
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines() if "2026" in line]
    assert lines[0][0] == THIRD
    assert lines[1][:3] == ["●", "current", SECOND]
    assert lines[2][:3] == ["○", "previous", FIRST]
    assert lines[1][3:] == ["1,200", "1", "35", "B", "1.000", "flat", "hashing"]


def test_list_json_and_the_variable(root: Path) -> None:
    listed = parsed(run("list", "--json", SHOAL_INDEX=str(root)))
    assert listed["index"] == str(root)
    assert [(row["version"], row["state"]) for row in listed["versions"]] == [
        (THIRD, None), (SECOND, "current"), (FIRST, "previous")
    ]  # fmt: skip
    assert listed["versions"][0]["passages"] == 1200


def test_list_names_a_version_that_cannot_be_read(root: Path) -> None:
    (root / layout.manifest(THIRD)).write_text("{}")
    assert "unreadable" in run("list", "--index", str(root)).stdout
    rows = parsed(run("list", "--index", str(root), "--json"))["versions"]
    assert [bool(row["problem"]) for row in rows] == [True, False, False]


def test_list_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    assert "holds no published version" in run("list", "--index", str(tmp_path)).stdout


@pytest.mark.parametrize("command", ["list", "show", "verify", "prune"])
def test_a_root_that_does_not_exist(command: str, tmp_path: Path) -> None:
    result = run(command, "--index", str(tmp_path / "nowhere"), "--json")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert parsed(result)["error"]["code"] == "NOT_FOUND"


def test_list_marks_a_version_that_its_gate_refused_and_says_why(root: Path) -> None:
    storage = Storage(str(root))
    for version in (FIRST, THIRD):
        versions.refuse(storage, version, ["nDCG@10 is 0.4500, at least 0.8 was demanded", "recall@10 is 0.8"])
    text = run("list", "--index", str(root)).stdout
    assert f"✗ refused   {THIRD}" in text
    assert f"{THIRD} was refused: nDCG@10 is 0.4500, at least 0.8 was demanded; recall@10 is 0.8" in " ".join(
        text.split()
    )
    assert "○ previous" in text
    rows = parsed(run("list", "--index", str(root), "--json"))["versions"]
    assert [row["state"] for row in rows] == ["refused", "current", "previous"]
    assert [len(row["refused"] or ()) for row in rows] == [2, 0, 0]
    versions.activate(storage, THIRD)
    versions.prune(storage, keep=0)
    assert versions.read_refusals(storage) == {}


def test_what_cannot_be_read_of_a_refusal_keeps_nobody_from_the_list(root: Path) -> None:
    (root / "refused").mkdir()
    for name, content in {THIRD: "half of", FIRST: '{"reasons": 3, "refused_at": ""}', "other": "[]"}.items():
        (root / "refused" / f"{name}.json").write_text(content)
    rows = parsed(run("list", "--index", str(root), "--json"))["versions"]
    assert [row["state"] for row in rows] == [None, "current", "previous"]


def test_show_names_the_types_of_the_fields(root: Path) -> None:
    text = run("show", "--index", str(root)).stdout
    lines = [line.strip().removeprefix("fields").strip() for line in text.splitlines()]
    assert "integer: pages, year" in lines
    assert "list: tags" in lines
    assert "without a type, which no filter takes: remark" in lines


def test_show_names_what_the_build_left_out(root: Path) -> None:
    left_out = {".pdf": 8, ".html": 90}
    report = BuildReport(files_left_out=left_out, left_out={"ref: nested": 5}, remarks=["dates are text"])
    Storage(str(root)).write(layout.report(SECOND), report.model_dump_json().encode())
    lines = [" ".join(line.split()) for line in run("show", "--index", str(root)).stdout.splitlines()]
    assert "98 files of other types: 90 .html, 8 .pdf" in lines
    assert "5 x metadata ref: nested" in lines
    assert "note dates are text" in lines
    assert parsed(run("show", "--index", str(root), "--json"))["report"]["files_left_out"] == left_out


def test_show_tells_what_was_copied_from_which_version(root: Path) -> None:
    assert "copied from" not in run("show", "--index", str(root)).stdout
    publish(root, FOURTH, base={"version": SECOND, "reused": 1150, "embedded": 50, "removed": 7})
    lines = [" ".join(line.split()) for line in run("show", FOURTH, "--index", str(root)).stdout.splitlines()]
    assert f"copied from {SECOND}: 1,150 reused, 50 embedded, 7 of its passages removed" in lines
    assert not any("base=" in line for line in lines)


def test_show_takes_the_current_version(root: Path) -> None:
    text = run("show", "--index", str(root)).stdout
    assert f"{SECOND} (current)" in text
    assert "1,200 of 1,300 records" in text
    assert "60 duplicates, 40 rejected" in text
    assert "source=in.jsonl" in text
    shown = parsed(run("show", FIRST, "--index", str(root), "--json"))
    assert (shown["state"], shown["manifest"]["version"]) == ("previous", FIRST)


def test_show_without_a_current_version(tmp_path: Path) -> None:
    publish(tmp_path, FIRST)
    result = run("show", "--index", str(tmp_path))
    assert result.exit_code == 2
    assert "no current version" in result.stderr
    assert run("show", FIRST, "--index", str(tmp_path)).exit_code == 0


def test_an_unknown_version(root: Path) -> None:
    for command in ("show", "activate", "verify"):
        result = run(command, "20300101T000000-ffffffff", "--index", str(root))
        assert result.exit_code == 2
        assert "no published version" in result.stderr


def test_verify(root: Path) -> None:
    assert run("verify", "--index", str(root)).stdout == f"version {SECOND} is whole\n"
    assert parsed(run("verify", "--index", str(root), "--json")) == {"version": SECOND, "whole": True, "problems": []}


def test_verify_of_a_corrupt_version(root: Path) -> None:
    (root / layout.version_dir(SECOND) / "shard-00000" / "vectors.faiss").write_bytes(b"?")
    result = run("verify", "--index", str(root))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"version {SECOND} is corrupt, 1 problem:\n")
    assert "vectors.faiss has 1 bytes" in result.stdout
    assert parsed(run("verify", "--index", str(root), "--json"))["whole"] is False


def test_what_an_index_root_holds_commands_no_terminal(root: Path) -> None:
    """Names of files and of versions are those of whoever can write there."""
    folder = root / layout.version_dir(SECOND)
    (folder / "\x1b[2J.bin").write_bytes(b"")
    stranger = root / layout.version_dir("\x1b[2J")
    stranger.mkdir()
    (stranger / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    results = [run(command, "--index", str(root)) for command in ("verify", "list", "prune")]
    assert [result.exit_code for result in results] == [1, 0, 0]
    assert "is not in the manifest" in results[0].stdout
    assert not [result.stdout for result in results if "\x1b" in result.output]


def test_what_a_server_says_commands_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"version": "\x1b[2J", "previous": "\x9b2J", "passages": 1, "shards": 1, "dim": 8, "metric": "cosine"}
    answer = httpx.Response(200, json={**described, "kind": "flat", "models": {}})

    def connect(url: str, **options: Any) -> client.Client:
        return client.Client(url, transport=httpx.MockTransport(lambda request: answer), **options)

    monkeypatch.setattr(shoal.cli.server, "Client", connect)
    for command in (["activate", SECOND], ["rollback"]):
        result = run(*command, "--url", "http://127.0.0.1:1")
        assert result.exit_code == 0
        assert "serving version" in result.stdout
        assert "\x1b" not in result.output
        assert "\x9b" not in result.output


def test_activate_and_rollback(root: Path) -> None:
    result = run("activate", THIRD, "--index", str(root))
    assert result.stdout == f"current version is {THIRD}, previous is {SECOND}\n"
    assert parsed(run("rollback", "--index", str(root), "--json")) | {"activated_at": ""} == {
        "version": SECOND, "previous": THIRD, "activated_at": ""
    }  # fmt: skip


def test_activate_refuses_a_corrupt_version(root: Path) -> None:
    (root / layout.version_dir(THIRD) / "shard-00000" / "vectors.faiss").write_bytes(b"?")
    result = run("activate", THIRD, "--index", str(root))
    assert result.exit_code == 2
    assert "is not activated" in result.stderr


def test_rollback_without_a_previous_version(tmp_path: Path) -> None:
    publish(tmp_path, FIRST)
    versions.activate(Storage(str(tmp_path)), FIRST)
    result = run("rollback", "--index", str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no previous version" in result.stderr


def test_prune(root: Path) -> None:
    assert run("prune", "--index", str(root)).stdout == "removed nothing\n"
    versions.activate(Storage(str(root)), THIRD)
    assert parsed(run("prune", "--index", str(root), "--keep", "0", "--json")) == {
        "removed": [FIRST],
        "kept": [SECOND, THIRD],
    }
    assert run("prune", "--index", str(root), "--keep", "-1").exit_code == 2


@pytest.mark.parametrize("command", [["activate", FIRST], ["rollback"]])
def test_a_place_is_required(command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr == "error: --index ROOT (or SHOAL_INDEX) or --url URL is required\n"


def test_activate_and_rollback_by_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, patience = [], []

    def answer(request: httpx.Request) -> httpx.Response:
        patience.append(request.extensions["timeout"]["read"])
        sent.append((str(request.url), request.headers.get("authorization"), json.loads(request.content)))
        index = {"passages": 10, "shards": 2, "dim": 64, "metric": "cosine", "kind": "flat", "models": {}}
        return httpx.Response(200, json={"version": "v2", "previous": "v1", **index})

    def connect(url: str, **options: Any) -> client.Client:
        return client.Client(url, transport=httpx.MockTransport(answer), **options)

    monkeypatch.setattr(shoal.cli.server, "Client", connect)
    result = run("activate", "v2", "--url", "http://there:1", SHOAL_API_KEY="k", SHOAL_INDEX="/not/used")
    assert result.stdout == "serving version v2, previous is v1\n"
    assert parsed(run("rollback", "--url", "http://there:1", "--json"))["version"] == "v2"
    assert sent == [
        ("http://there:1/v1/index/activate", "Bearer k", {"version": "v2"}),
        ("http://there:1/v1/index/rollback", None, {}),
    ]
    assert min(patience) > PREPARE_S


def test_builds_are_dead_after_the_days_that_the_option_says() -> None:
    default: float = inspect.signature(prune).parameters["idle_days"].default
    assert 86_400 * default == versions.IDLE_S


def test_versions_are_signed_and_then_verified_with_the_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("sign", "--index", str(root))
    assert refused.exit_code == 2
    assert "SHOAL_SIGNING_KEY" in refused.output
    monkeypatch.setenv("SHOAL_SIGNING_KEY", "s" * 64)
    unsigned = run("verify", FIRST, "--index", str(root))
    assert unsigned.exit_code == 1
    assert "is not signed" in unsigned.output
    assert "is not signed" in run("activate", THIRD, "--index", str(root)).output
    assert json.loads(run("sign", "--index", str(root), "--json").output) == {"signed": [FIRST, SECOND, THIRD]}
    assert run("verify", FIRST, "--index", str(root)).exit_code == 0
    assert run("activate", THIRD, "--index", str(root)).exit_code == 0
