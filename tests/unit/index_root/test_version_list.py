"""Lists of versions, as the page and `GET /v1/index/versions` give them."""

from pathlib import Path

import pytest

from shoal.errors import NotFound
from shoal.index_root import layout, versions
from shoal.index_root.storage import Storage
from shoal.index_root.version_list import newest_versions
from shoal.records import Passage
from tests.support.indexes import publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version, count in (("v1", 3), ("v2", 4), ("v3", 5)):
        publish(tmp_path, version, [Passage(f"p{number}", f"fish {number}") for number in range(count)])
    return tmp_path


def states(root: Path, limit: int) -> list[tuple[str, str | None, int | None]]:
    return [(each.version, each.state, each.passages) for each in newest_versions(Storage(str(root)), limit)]


def test_newest_come_first_with_what_is_current(root: Path) -> None:
    assert states(root, 9) == [("v3", "current", 5), ("v2", "previous", 4), ("v1", None, 3)]
    assert all(each.created_at and each.problem is None for each in newest_versions(Storage(str(root)), 9))


def test_what_is_in_use_is_listed_beyond_the_limit(root: Path) -> None:
    storage = Storage(str(root))
    versions.activate(storage, "v1")
    versions.activate(storage, "v2")
    assert states(root, 1) == [("v3", None, 5), ("v2", "current", 4), ("v1", "previous", 3)]


def test_a_version_says_why_it_is_refused_or_cannot_be_read(root: Path) -> None:
    storage = Storage(str(root))
    versions.refuse(storage, "v1", ["recall fell to 0.4", "three questions lost"])
    (root / layout.manifest("v2")).write_text("{}")
    listed = {each.version: each for each in newest_versions(storage, 9)}
    assert (listed["v1"].state, listed["v1"].problem) == ("refused", "recall fell to 0.4; three questions lost")
    assert (listed["v2"].state, listed["v2"].created_at, listed["v2"].passages) == ("previous", None, None)
    assert "manifest" in str(listed["v2"].problem)


def test_versions_are_listed_while_nothing_says_which_is_current(root: Path) -> None:
    (root / layout.CURRENT).write_text("{")
    assert states(root, 9) == [("v3", None, 5), ("v2", None, 4), ("v1", None, 3)]


def test_no_index_root_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="never"):
        newest_versions(Storage(str(tmp_path / "never")), 9)
