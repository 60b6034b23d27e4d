import ast
from pathlib import Path

import pytest

from jobs import docstring_corpus

SOURCE = '''
def public():
    """Say what it does.

    Say it again with details."""

def _private():
    """Hidden."""

class Thing:
    """A thing."""

    def act(self):
        """Act."""
'''


def test_public_docstrings_are_found_without_importing() -> None:
    found = list(docstring_corpus._docstrings(ast.parse(SOURCE), "package.module"))
    assert [(name, kind) for name, kind, _ in found] == [
        ("package.module.public", "function"),
        ("package.module.Thing", "class"),
        ("package.module.Thing.act", "method"),
    ]


def test_passages_end_after_a_paragraph_and_never_exceed_the_bound() -> None:
    assert docstring_corpus._cut("one\nline\n\ntwo") == "one line two"
    short, long = "a" * 500, "b " * 200
    assert docstring_corpus._cut(f"{short}\n\n{long}") == short
    assert len(docstring_corpus._cut("word " * 1000)) <= docstring_corpus.LONGEST


def test_an_unchanged_corpus_keeps_its_file(tmp_path: Path) -> None:
    output = tmp_path / "corpus.jsonl"
    docstring_corpus.main(output, limit=20)
    before = output.stat().st_mtime_ns
    assert len(output.read_text().splitlines()) == 20
    docstring_corpus.main(output, limit=20)
    assert output.stat().st_mtime_ns == before


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        docstring_corpus.main(tmp_path / "file" / "corpus.jsonl", limit=1)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/file/corpus.jsonl")
