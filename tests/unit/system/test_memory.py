"""Memory that is let go of."""

import mmap
import sys
from pathlib import Path

import pytest

from shoal.system.memory import give_back, let_go

PAGES = 64
"""Pages of the mapped file."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of maps")


def resident_kib(file: Path) -> int:
    """Memory of the maps of a file in this process."""
    total, mapped = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(" ")
        if not name.endswith(":"):
            mapped = line.endswith(f" {file}")
        elif name == "Rss:" and mapped:
            total += int(value.split()[0])
    return total


@pytest.mark.parametrize("link", [False, True])
def test_pages_of_a_mapped_file_are_let_go_and_come_back(tmp_path: Path, link: bool) -> None:
    file, content = tmp_path / "a file", bytes(range(256)) * (mmap.PAGESIZE // 256) * PAGES
    file.write_bytes(content)
    (tmp_path / "link").symlink_to(file)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        assert resident_kib(file) == len(content) // 1024
        let_go(tmp_path / "link" if link else file)
        assert resident_kib(file) == 0
        assert mapped[:] == content


def test_what_is_written_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(mmap.PAGESIZE))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"here"
        let_go(file)
        assert mapped[:4] == b"here"


def test_freed_memory_is_given_back_without_harm() -> None:
    kept = [bytes(1000) for _ in range(100)]
    give_back()
    assert all(data == bytes(1000) for data in kept)
