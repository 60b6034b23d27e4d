import errno
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from shoal.errors import InvalidArgument, NotFound, ShoalError, Unavailable
from shoal.index_root import versions
from shoal.index_root.storage import Storage


def test_a_local_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert Storage("index").uri == str(tmp_path / "index")
    assert Storage("~/index").uri == "/home/someone/index"
    assert Storage(f"file://{tmp_path}/index/").uri == str(tmp_path / "index")
    assert Storage("index").local_path("versions/v").parent == tmp_path / "index" / "versions"


def test_a_remote_root_has_no_local_path_and_messages_show_no_options() -> None:
    storage = Storage("s3://bucket/prefix?endpoint_override=http://127.0.0.1:9&region=eu-west-1")
    assert not storage.is_local
    assert storage.place("CURRENT") == "s3://bucket/prefix/CURRENT"
    with pytest.raises(InvalidArgument, match="not on this machine's disk"):
        storage.local_path("CURRENT")


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("abfs://:secret@account.dfs.core.windows.net/c/p?enable_tls=true", "abfs://account.dfs.core.windows.net/c/p"),
        ("abfs://c:secret@account.dfs.core.windows.net/p@2", "abfs://c@account.dfs.core.windows.net/p@2"),
        ("abfs://c@account.dfs.core.windows.net/p:1@2", "abfs://c@account.dfs.core.windows.net/p:1@2"),
        ("gs://anonymous@bucket/p", "gs://anonymous@bucket/p"),
    ],
)
def test_no_message_shows_a_password(uri: str, place: str) -> None:
    storage = Storage(uri)
    assert storage.place() == place
    assert repr(storage) == f"Storage({place!r})"


def test_messages_name_a_root_by_its_place_and_not_by_its_uri() -> None:
    for folder in ("shoal", "serve", "jobs"):
        for file in (Path(__file__).parents[3] / folder).rglob("*.py"):
            assert "storage.uri}" not in file.read_text(), file


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ftp://host/index", "s3://bucket/prefix"),
        ("ftp://me:secret@host:21/index", "ftp://me@host:21/index"),
        ("nofs://host:8020/p@2024?x=secret", "nofs://host:8020/p@2024 cannot"),
        ("abfs://:sec/ret@account/c", "abfs://account/c"),
        ("s3://key:secret@bucket/index", "AWS_SECRET_ACCESS_KEY"),
        ("s3:///index?region=us-east-1", "names a bucket"),
        ("s3://bucket/index?endpoint=http://127.0.0.1:9", "endpoint_override"),
    ],
)
def test_a_uri_that_cannot_be_opened_is_refused_with_the_remedy(uri: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        Storage(uri)
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)


def test_temporary_files_of_writers_are_not_listed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder/file", b"x")
    (tmp_path / "folder" / ".file.0123456789abcdef.tmp").write_bytes(b"half")
    assert list(storage.list("folder")) == ["file"]
    assert list(storage.files("")) == ["folder/file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file", b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(Unavailable, match="no space left"):
        storage.write("file", b"new")
    assert storage.read("file") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), InvalidArgument, "give write permission"),
        (OSError(errno.EROFS, "Read-only file system"), InvalidArgument, "give write permission"),
        (
            OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied"),
            InvalidArgument,
            "write permission",
        ),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"), NotFound, "create it"),
        (OSError(errno.EIO, "Input/output error"), Unavailable, "cannot be reached"),
    ],
)
def test_a_write_error_names_the_place_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[ShoalError], says: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(expected, match=says) as caught:
        Storage(str(tmp_path)).write("CURRENT", b"{}")
    assert str(tmp_path / "CURRENT") in str(caught.value)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    storage = Storage(str(tmp_path / "file"))
    for call in (lambda: storage.write("CURRENT", b"{}"), lambda: storage.read("CURRENT")):
        with pytest.raises(InvalidArgument, match="a file is where a folder should be"):
            call()


def test_a_scratch_folder_of_a_local_root_lies_in_it_and_goes_with_its_files(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with storage.scratch("staging/scratch") as folder:
        (folder / "piece").write_bytes(b"x")
        storage.put(folder / "piece", "staging/piece")
        (folder / "other").write_bytes(b"y")
    assert list(storage.files("")) == ["staging/piece"]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Unavailable, "no space left; free some"),
        (PermissionError(errno.EACCES, "denied"), InvalidArgument, "read-only or forbidden"),
        (FileNotFoundError(errno.ENOENT, "gone"), NotFound, "was removed while it was written to"),
    ],
)
def test_what_the_disk_says_of_a_scratch_folder_is_told_with_its_place(
    tmp_path: Path, raised: OSError, error: type[ShoalError], says: str
) -> None:
    with (
        pytest.raises(error, match=f"{tmp_path}/staging/scratch.*{says}"),
        Storage(str(tmp_path)).scratch("staging/scratch"),
    ):
        raise raised


def test_a_folder_that_another_process_writes_to_is_removed_all_the_same(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder/file", b"x")
    faults = [OSError(errno.ENOTEMPTY, "Directory not empty")] * 3

    class Busy(LocalFileSystem):
        def delete_dir(self, path: str) -> None:
            if faults:
                raise faults.pop()
            super().delete_dir(path)

    storage._filesystem = Busy()
    storage.delete("folder")
    assert not storage.exists("folder")
    storage.write("folder/file", b"x")
    faults[:] = [OSError(errno.ENOTEMPTY, "Directory not empty")] * 99
    with pytest.raises(Unavailable, match="folder: another process is writing to it"):
        storage.delete("folder")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder beside the root, to which `versions/v1` and `versions/v2/file` of the root are links."""
    folder, root = tmp_path / "elsewhere", tmp_path / "root"
    folder.mkdir()
    (folder / "file").write_bytes(b"theirs")
    (root / "versions" / "v2").mkdir(parents=True)
    (root / "versions" / "v1").symlink_to(folder)
    (root / "versions" / "v2" / "file").symlink_to("../../../elsewhere/file")
    return folder


def test_nothing_is_read_or_written_through_a_link_that_leaves_the_root(elsewhere: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    (tmp_path / "new").write_bytes(b"ours")
    for path in ("versions/v1/file", "versions/v2/file", "versions/v1"):
        for call in (
            storage.read,
            storage.local_path,
            storage.open_input,
            storage.exists,
            storage.sha256,
            lambda path: storage.write(path, b"ours"),
            lambda path: storage.put(tmp_path / "new", path),
            lambda path: list(storage.list(path)),
        ):
            with pytest.raises(InvalidArgument, match="behind a link that leaves the index root"):
                call(path)
    assert (elsewhere / "file").read_bytes() == b"theirs"


def test_nothing_is_deleted_through_a_link(elsewhere: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "root"))
    with pytest.raises(InvalidArgument, match="behind a link"):
        storage.delete("versions/v1/file")
    with pytest.raises(InvalidArgument, match="behind a link"):
        versions.prune(storage, keep=0)
    assert (elsewhere / "file").read_bytes() == b"theirs"
    storage.delete("versions/v1")  # the link itself
    storage.delete("versions/v2")
    assert list(storage.list("versions")) == []
    assert (elsewhere / "file").read_bytes() == b"theirs"


def test_the_root_itself_may_be_a_link_and_so_may_what_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    storage = Storage(str(tmp_path / "root"))
    storage.write("a/file", b"x")
    (tmp_path / "disk" / "b").symlink_to("a")
    assert storage.read("b/file") == b"x"
    storage.delete("b")
    assert storage.read("a/file") == b"x"
