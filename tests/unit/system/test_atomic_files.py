"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from shoal.system.atomic_files import replace_file, replaced_file


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    replace_file(file, b"old")
    replace_file(file, b"new")
    assert file.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts.json"]


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    replace_file(file, b"old")
    with pytest.raises(FileNotFoundError), replaced_file(file) as partial:
        partial.with_name("missing").read_bytes()
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts.json"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    (tmp_path / ".facts.json.partial").write_bytes(b"something longer than what follows")
    replace_file(file, b"new")
    assert file.read_bytes() == b"new"
