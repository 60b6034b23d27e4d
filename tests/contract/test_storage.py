"""One suite for every kind of index root: a local folder and a bucket of a real S3 server."""

import hashlib
import pickle
import threading
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument, NotFound, Unavailable
from shoal.index_root.storage import Storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "root"))
    return Storage(request.getfixturevalue("s3_uri"))


def test_a_file_is_written_read_and_replaced(storage: Storage) -> None:
    storage.write("a/b/c.json", b"one")
    assert storage.read("a/b/c.json") == b"one"
    storage.write("a/b/c.json", b"")
    assert storage.read("a/b/c.json") == b""


def test_a_large_file_is_put_streamed_back_and_hashed(storage: Storage, tmp_path: Path) -> None:
    data = bytes(range(256)) * 80_000  # 20 MB: several parts of an upload
    source = tmp_path / "source"
    source.write_bytes(data)
    storage.put(source, "deep/er/file")
    assert b"".join(storage.chunks("deep/er/file")) == data
    assert storage.sha256("deep/er/file") == (hashlib.sha256(data).hexdigest(), len(data))
    with storage.open_input("deep/er/file") as file:
        file.seek(256 * 40_000 + 7)
        assert file.read(3) == bytes([7, 8, 9])


def test_put_replaces_a_file(storage: Storage, tmp_path: Path) -> None:
    for content in (b"old and longer", b"new"):
        (tmp_path / "source").write_bytes(content)
        storage.put(tmp_path / "source", "file")
    assert storage.read("file") == b"new"


def test_entries_of_a_folder_are_names_in_order(storage: Storage) -> None:
    for path in ("v/b/two", "v/b/one", "v/a", "w/x"):
        storage.write(path, b"x")
    assert list(storage.list("v")) == ["a", "b"]
    assert list(storage.list("")) == ["v", "w"]
    assert list(storage.list("v/b")) == ["one", "two"]
    assert list(storage.list("nowhere")) == []
    assert list(storage.files("v")) == ["a", "b/one", "b/two"]
    assert list(storage.files("nowhere")) == []


def test_files_and_folders_exist(storage: Storage) -> None:
    storage.write("folder/file", b"x")
    assert storage.exists("folder/file")
    assert storage.exists("folder")
    assert not storage.exists("folder/fil")
    assert not storage.exists("fold")


def test_files_and_folders_are_deleted_and_a_missing_one_is_no_error(storage: Storage) -> None:
    for path in ("a/b/one", "a/b/two", "a/c"):
        storage.write(path, b"x")
    storage.delete("a/b")
    storage.delete("a/c")
    storage.delete("a/c")
    storage.delete("never/was")
    assert list(storage.files("")) == []


def test_the_root_itself_is_not_deleted(storage: Storage) -> None:
    with pytest.raises(InvalidArgument, match="refusing"):
        storage.delete("")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_a_path_does_not_leave_the_root(storage: Storage, path: str) -> None:
    with pytest.raises(InvalidArgument, match="leads out of"):
        storage.read(path)


def test_a_missing_file_is_named(storage: Storage) -> None:
    storage.write("there", b"x")
    for read in (
        lambda: storage.read("gone"),
        lambda: list(storage.chunks("gone")),
        lambda: storage.open_input("gone"),
        lambda: storage.sha256("gone"),
    ):
        with pytest.raises(NotFound, match=f"{storage.place('gone')} does not exist"):
            read()


def test_a_root_that_does_not_exist_is_told_from_one_that_does(storage: Storage) -> None:
    with pytest.raises(NotFound, match="no index root at"):
        storage.require()
    assert list(storage.list("")) == []
    storage.write("CURRENT", b"{}")
    storage.require()


def test_a_storage_travels_between_processes(storage: Storage) -> None:
    storage.write("file", b"x")
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"x"


def test_a_reader_sees_one_whole_write(storage: Storage) -> None:
    contents = {bytes([letter]) * 200_000 for letter in b"abc"}
    storage.write("file", min(contents))
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(storage.read("file"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        for content in sorted(contents):
            storage.write("file", content)
    done.set()
    reader.join()
    assert set(seen) <= contents


def test_a_missing_bucket_is_named(s3_endpoint: str) -> None:
    storage = Storage(f"s3://no-such-bucket/index?endpoint_override={s3_endpoint}")
    with pytest.raises(NotFound, match="s3://no-such-bucket/index"):
        storage.require()
    with pytest.raises(NotFound, match="no such bucket; create it"):
        storage.write("CURRENT", b"{}")


def test_the_endpoint_may_come_from_the_environment(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Storage(s3_uri).write("file", b"x")
    plain, _, options = s3_uri.partition("?")
    monkeypatch.setenv("AWS_ENDPOINT_URL", options.split("=")[1].split("&")[0])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert Storage(plain).read("file") == b"x"


def test_a_dead_endpoint_is_unavailable_and_names_the_remedy(s3_endpoint: str) -> None:
    storage = Storage("s3://bucket/index?endpoint_override=http://127.0.0.1:1")
    for call in (lambda: storage.read("CURRENT"), lambda: storage.write("CURRENT", b"{}"), storage.require):
        with pytest.raises(Unavailable, match="check the endpoint") as caught:
            call()
        assert caught.value.retry_after_s
