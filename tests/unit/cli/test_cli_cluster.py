"""A build that is handed to a cluster."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.cli import cluster
from tests.support.command_line import CHECKOUT, run


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
