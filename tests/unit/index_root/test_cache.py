import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import CorruptIndex, InvalidArgument, Unavailable
from shoal.index_root.cache import ShardCache
from shoal.index_root.storage import Storage


def test_a_cache_in_the_home_of_a_user_who_has_none_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # nobody's
    with pytest.raises(InvalidArgument, match="--cache-dir"):
        ShardCache("~/.cache/shoal/shards", 1)


class Source:
    """A storage with files of 100 bytes that counts how often each is read."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder))
        self.reads = 0
        chunks = self.storage.chunks

        def counted(path: str):  # type: ignore[no-untyped-def]
            self.reads += 1
            return chunks(path)

        self.storage.chunks = counted  # type: ignore[method-assign]

    def file(self, name: str) -> tuple[Storage, str, str, int]:
        data = name.encode() * 100
        self.storage.write(name, data)
        return self.storage, name, hashlib.sha256(data).hexdigest(), len(data)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_nobody_else_can_read_what_was_fetched_with_credentials(source: Source, folder: Path) -> None:
    path = ShardCache(folder / "shards", 1000).path(*source.file("a"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_is_written_through_a_link(source: Source, folder: Path) -> None:
    """In a folder that others can write, the names of the next files can be guessed."""
    file = source.file("a")
    victim = folder.parent / "victim"
    victim.write_bytes(b"mine")
    folder.mkdir()
    (folder / f"{file[2]}.part").symlink_to(victim)
    with pytest.raises(Unavailable, match="cannot be used"):
        ShardCache(folder, 1000).path(*file)
    assert victim.read_bytes() == b"mine"


def test_a_file_is_downloaded_once_and_named_by_its_content(source: Source, folder: Path) -> None:
    cache = ShardCache(folder, 1000)
    file = source.file("a")
    path = cache.path(*file)
    assert path.read_bytes() == b"a" * 100
    assert path.name == file[2]
    assert cache.path(*file) == path
    assert ShardCache(folder, 1000).path(*file) == path
    assert source.reads == 1
    assert [entry.name for entry in folder.iterdir()] == [file[2]]


def test_a_damaged_cached_file_is_noticed_and_fetched_again(source: Source, folder: Path) -> None:
    cache = ShardCache(folder, 1000)
    file = source.file("a")
    for damage in (b"a" * 99 + b"b", b"a" * 99, b"a" * 101, b""):
        cache.path(*file).write_bytes(damage)
        assert cache.path(*file).read_bytes() == b"a" * 100
    assert source.reads == 5


def test_the_least_recently_asked_for_goes_first(source: Source, folder: Path) -> None:
    cache = ShardCache(folder, 300)
    files = {name: source.file(name) for name in "abcd"}
    paths = {}
    for age, name in enumerate("abc"):
        paths[name] = cache.path(*files[name])
        cache.release(paths[name])
        os.utime(paths[name], (age, age))
    cache.release(cache.path(*files["a"]))  # now the most recent one
    cache.path(*files["d"])
    assert {name for name, path in paths.items() if path.exists()} == {"a", "c"}


def test_a_file_in_use_is_never_evicted(source: Source, folder: Path) -> None:
    cache, other = ShardCache(folder, 200), ShardCache(folder, 200)
    held = cache.path(*source.file("a"))
    for name in "bcd":
        other.release(other.path(*source.file(name)))
    assert held.exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) == 200
    cache.release(held)
    other.path(*source.file("e"))
    other.path(*source.file("f"))
    assert not held.exists()


def test_a_file_is_in_use_until_every_holder_has_released_it(source: Source, folder: Path) -> None:
    cache = ShardCache(folder, 100)
    file = source.file("a")
    held = [cache.path(*file), cache.path(*file)]
    cache.release(held[0])
    with pytest.raises(InvalidArgument, match="raise cache_bytes"):
        cache.path(*source.file("b"))
    cache.release(held[1])
    cache.release(held[1])  # once too often is harmless
    cache.path(*source.file("b"))


def test_what_does_not_fit_is_refused_and_leaves_nothing(source: Source, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not fit") as caught:
        ShardCache(folder, 99).path(*source.file("a"))
    assert caught.value.param == "cache_bytes"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("damage", [b"a" * 99 + b"b", b"a" * 99, b"a" * 101, None])
def test_a_damaged_source_is_named_and_nothing_is_kept(source: Source, folder: Path, damage: bytes | None) -> None:
    file = source.file("a")
    if damage is None:
        source.storage.delete("a")
    else:
        source.storage.write("a", damage)
    with pytest.raises(CorruptIndex, match=source.storage.place("a")):
        ShardCache(folder, 1000).path(*file)
    assert list(folder.iterdir()) == []
    source.storage.write("a", b"a" * 100)
    assert ShardCache(folder, 1000).path(*file).read_bytes() == b"a" * 100


def test_what_a_killed_download_left_behind_is_no_obstacle(source: Source, folder: Path) -> None:
    file = source.file("a")
    folder.mkdir()
    (folder / f"{file[2]}.part").write_bytes(b"x" * 150)
    (folder / f"{file[2]}.lock").write_bytes(b"")
    (folder / f"{'0' * 64}.part").write_bytes(b"x" * 150)
    assert ShardCache(folder, 100).path(*file).read_bytes() == b"a" * 100
    assert [path.name for path in folder.iterdir()] == [file[2]]
