"""API keys: lines, hashes, and the command that makes them."""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shoal.cli.keys import app
from shoal.errors import InvalidArgument
from shoal.serving import keys


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_made_key_is_found_by_its_line_and_no_other_is() -> None:
    key, other = keys.make(), keys.make()
    (known,) = keys.parse(keys.line(key, "search-ui", "admin", "600/min"), "here")
    assert (known.name, known.scope, known.per_second) == ("search-ui", "admin", 10)
    assert known.digest == hashlib.sha256(key.encode()).digest()
    assert keys.find([known], key) is known
    for wrong in (other, key[:-1], key + " ", key.upper(), "", known.digest.hex(), "x" * 1000, "\ud800"):
        assert keys.find([known], wrong) is None
    assert key.startswith(keys.PREFIX)
    assert len(set(key)) > 10


def test_several_lines_with_comments_from_a_file_or_a_variable() -> None:
    first, second = "0" * 64, "f" * 64
    text = f"# ours\n\nold sha256:{first} # until March\n  new   sha256:{second}\tread 2.5/s;\n"
    text += f"old sha256:{second} admin 36/h\nimporter sha256:{first} write"
    found = keys.parse(text, "here")
    assert [(one.name, one.digest.hex(), one.scope, one.per_second) for one in found] == [
        ("old", first, "read", None), ("new", second, "read", 2.5), ("old", second, "admin", 0.01),
        ("importer", first, "write", None),
    ]  # fmt: skip


def test_a_key_may_be_bound_to_indexes_wherever_its_line_says_so() -> None:
    digest = "0" * 64
    lines = [f"a sha256:{digest} write index=fish,big-birds 5/s", f"b sha256:{digest} index=fish", f"c sha256:{digest}"]
    known = keys.parse("\n".join(lines), "here")
    assert [(key.scope, key.per_second, key.indexes) for key in known] == [
        ("write", 5, frozenset({"fish", "big-birds"})), ("read", None, frozenset({"fish"})), ("read", None, None),
    ]  # fmt: skip
    (made,) = keys.parse(keys.line(keys.make(), "d", "admin", "5/s", ["fish", "birds"]), "here")
    assert made.indexes == {"fish", "birds"}
    shown = json.loads(run("--name", "ui", "--index", "fish", "--index", "birds", "--json").stdout)
    assert shown["line"].endswith(" read index=fish,birds")
    assert run("--name", "ui", "--index", "Fish").exit_code == 2


def test_a_scope_includes_the_ones_before() -> None:
    scopes: list[keys.Scope] = ["read", "write", "admin"]
    allowed = [[wanted for wanted in scopes if keys.includes(scope, wanted)] for scope in scopes]
    assert allowed == [["read"], ["read", "write"], ["read", "write", "admin"]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alone", "NAME HASH"),
        ("a/b sha256:" + "0" * 64, "the name"),
        ("a sha256:" + "0" * 63, "never put a key here"),
        ("a md5:" + "0" * 64, "never put a key here"),
        ("a shoal_secret", "never put a key here"),
        ("a sha256:" + "0" * 64 + " writer", "the scope should be read, write or admin"),
        ("a sha256:" + "0" * 64 + " read often", "the rate"),
        ("a sha256:" + "0" * 64 + " read 0/s", "the rate"),
        ("a sha256:" + "0" * 64 + " read 5/s more", "NAME HASH"),
        ("a sha256:" + "0" * 64 + " indexes=fish", "bound by index="),
        ("a sha256:" + "0" * 64 + " index=fish index=birds", "stands twice"),
        ("a sha256:" + "0" * 64 + " index=", "should name indexes"),
        ("a sha256:" + "0" * 64 + " index=fish,../birds", "should name indexes"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_never_repeated(line: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as wrong:
        keys.parse(f"# first\n{line}\n", "keys.txt")
    assert wrong.value.message.startswith("keys.txt, line 2: ")
    assert "secret" not in wrong.value.message


def test_the_command_shows_the_key_once_and_appends_its_line(tmp_path: Path) -> None:
    shown = json.loads(run("--name", "ui", "--json").stdout)
    assert keys.find(keys.parse(shown["line"], "here"), shown["key"])
    file = tmp_path / "keys"
    file.write_text("# no line break at the end")
    file.chmod(0o600)
    made = [run("--name", "ui", "--rate", "5/s", "--append", str(file)).stdout.strip() for _ in range(2)]
    known = keys.parse(file.read_text(), "here")
    assert [keys.find(known, key) for key in made] == known
    assert len(known) == 2
    assert not any(key in file.read_text() for key in made)
    new = tmp_path / "new"
    run("--name", "ui", "--append", str(new))
    assert stat.S_IMODE(new.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--name", "a b"), "the name"),
        (("--name", "a", "--scope", "root"), "the scope"),
        (("--name", "a", "--rate", "5"), "the rate"),
        (("--name", "a", "--append", "/nowhere/keys"), "cannot write to /nowhere/keys"),
    ],
)
def test_what_the_command_cannot_do_is_said_in_one_line(options: tuple[str, ...], problem: str) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("namespace", "word"),
    [
        ("acme", "namespace=acme"),
        ("acme/eu 1;#2", "namespace=acme/eu%201%3B%232"),
        ("größe", "namespace=gr%C3%B6%C3%9Fe"),
        ("__default__", "namespace=__default__"),
        ("100%", "namespace=100%25"),
    ],
)
def test_a_key_is_bound_to_a_namespace_whatever_its_name_holds(namespace: str, word: str) -> None:
    for rate in (None, "5/s"):
        line = keys.line(keys.make(), "tenant", "write", rate, (), namespace)
        assert line.split()[-1] == word
        (known,) = keys.parse(f"{line} # comment; {keys.line(keys.make(), 'other')}", "here")[:1]
        assert known.namespace == ("" if namespace == "__default__" else namespace)
        assert known.per_second == (None if rate is None else 5)
    (unbound,) = keys.parse(keys.line(keys.make(), "all"), "here")
    assert unbound.namespace is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("admin namespace=acme", "cannot be admin"),
        ("write namespace=", "should be a name"),
        ("write namespace=a namespace=b", "twice"),
        ("write namespace=%00", "printable"),
        ("write namespace=%ff", "percent-encoded"),
        ("write space=acme", "bound by"),
    ],
)
def test_a_line_that_binds_a_key_wrongly_is_refused(words: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        keys.parse(f"tenant sha256:{'0' * 64} {words}", "here")


def test_the_command_binds_a_key() -> None:
    made = json.loads(run("--name", "tenant", "--namespace", "acme", "--json").stdout)
    assert made["line"].endswith(" read namespace=acme")
    assert run("--name", "op", "--scope", "admin", "--namespace", "acme").exit_code == 2
