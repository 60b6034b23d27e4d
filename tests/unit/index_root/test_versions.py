import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import Conflict, CorruptIndex, InvalidArgument, NotFound
from shoal.fingerprint import Fingerprint
from shoal.index_root import layout, versions
from shoal.index_root.manifest import CorpusStatistics, Counts, FileEntry, Manifest, ShardEntry, VectorIndexInfo
from shoal.index_root.storage import Storage

PLAN = "1a2b3c4d" * 8
CONTENT = {
    "rejected.jsonl": b'{"file":"a","line":3,"reason":"no id"}\n',
    "shard-00000/vectors.faiss": bytes(range(200)),
    "shard-00000/passages.arrow": b"ARROW1" * 20,
    "shard-00000/shard.json": b'{"count": 3}\n',
    "shard-00001/vectors.faiss": bytes(reversed(range(150))),
    "shard-00001/passages.arrow": b"ARROW1" * 10,
    "shard-00001/shard.json": b'{"count": 2}\n',
}


def publish(storage: Storage, version: str, plan: str = PLAN) -> Manifest:
    entries = []
    for path, data in CONTENT.items():
        storage.write(f"{layout.version_dir(version)}/{path}", data)
        entries.append(FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = Manifest(
        version=version,
        plan=plan,
        created_at="2026-11-22T23:34:11+00:00",
        encoder=Fingerprint(
            model="m",
            weights="w",
            dim=8,
            pooling="mean",
            query_prompt="",
            passage_prompt="",
            max_length=256,
            dtype="float32",
        ),
        dim=8,
        index=VectorIndexInfo(kind="flat", search="", recall_at_10=None, latency_ms=None),
        shards=[ShardEntry(shard=0, count=3, files=entries[1:4]), ShardEntry(shard=1, count=2, files=entries[4:])],
        files=entries[:1],
        counts=Counts(input=5, passages=5, duplicates=0, rejected=0),
        statistics=CorpusStatistics(text_bytes=10, mean_text_bytes=2.0),
        build={},
    )
    versions.publish(storage, manifest)
    return manifest


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


def test_names_of_versions_sort_by_time_and_name_the_plan() -> None:
    moment = datetime(2026, 11, 22, 23, 34, 11, 42_999, tzinfo=UTC)
    name = "20261122T233411042-1a2b3c4d"
    assert versions.make_version(moment, PLAN) == name
    assert versions.make_version(moment.astimezone(timezone(timedelta(hours=9))), PLAN) == name
    assert versions.make_version(moment + timedelta(milliseconds=1), PLAN) > name > "20261122T233411-1a2b3c4d"


def test_nothing_is_current_until_it_is_activated(storage: Storage) -> None:
    with pytest.raises(NotFound, match="no index root at"):
        versions.read_current(storage)
    publish(storage, "v1")
    assert versions.read_current(storage) is None
    current = versions.activate(storage, "v1")
    assert (current.version, current.previous) == ("v1", None)
    assert versions.read_current(storage) == current


def test_rollback_flips_between_two_versions(storage: Storage) -> None:
    for version in ("v1", "v2"):
        publish(storage, version)
        versions.activate(storage, version)
    assert versions.rollback(storage).version == "v1"
    assert versions.read_current(storage) == versions.activate(storage, "v1")  # activating the current changes nothing
    assert versions.rollback(storage).version == "v2"


def test_rollback_needs_a_previous_version(storage: Storage) -> None:
    publish(storage, "v1")
    for prepare in (lambda: None, lambda: versions.activate(storage, "v1")):
        prepare()
        with pytest.raises(Conflict, match="no previous version"):
            versions.rollback(storage)


def test_an_unknown_version_is_named_with_the_known_ones(storage: Storage) -> None:
    publish(storage, "v1")
    for call in (versions.activate, versions.verify, versions.read_manifest):
        with pytest.raises(NotFound, match=r"no published version v9; published are: v1"):
            call(storage, "v9")


@pytest.mark.parametrize("name", ["../v1", "", "a/b", ".hidden", "v" * 200])
def test_what_cannot_be_a_version_name_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidArgument):
        versions.activate(storage, name)


def test_a_renamed_version_is_not_believed(storage: Storage) -> None:
    publish(storage, "v1")
    storage.local_path("versions/v1").rename(storage.local_path("versions/v2"))
    with pytest.raises(CorruptIndex, match="belongs to version v1"):
        versions.read_manifest(storage, "v2")


OF_NO_NAME = json.dumps({"version": "v1", "previous": "\x1b[2J", "activated_at": ""}).encode()
"""A CURRENT whose previous version has a name that none can have."""


def test_a_broken_current_is_reported_and_mended_by_activating(storage: Storage) -> None:
    publish(storage, "v1")
    for data in (
        b"",
        b"[]",
        b'{"version": 3}',
        b'{"version": "../x", "previous": null, "activated_at": ""}',
        OF_NO_NAME,
    ):
        storage.write(layout.CURRENT, data)
        with pytest.raises(CorruptIndex, match="activate a version again"):
            versions.read_current(storage)
        assert versions.activate(storage, "v1").version == "v1"


def test_a_published_manifest_is_never_changed(storage: Storage) -> None:
    manifest = publish(storage, "v1")
    versions.publish(storage, manifest)
    with pytest.raises(Conflict, match="published already"):
        versions.publish(storage, manifest.model_copy(update={"created_at": "2026-11-23T00:00:00+00:00"}))


def test_the_newest_version_of_a_plan_is_found(storage: Storage) -> None:
    assert versions.find_plan(storage, PLAN) is None
    for version in ("20260101T000000-1a2b3c4d", "20260102T000000-1a2b3c4d", "20260103T000000-1a2b3c4d"):
        publish(storage, version)
    publish(storage, "20260104T000000-1a2b3c4d", plan="1a2b3c4d" + "0" * 56)
    storage.write(layout.manifest("20260103T000000-1a2b3c4d"), b"broken")
    assert versions.find_plan(storage, PLAN) == "20260102T000000-1a2b3c4d"
    assert versions.find_plan(storage, "f" * 64) is None


PATHS: Sequence[str] = ("manifest.json", *CONTENT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    publish(storage, "v1")
    assert versions.verify(storage, "v1") == []
    return storage


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_found_and_refused(whole: Storage, path: str, place: float, change: int) -> None:
    file = whole.local_path(f"versions/v1/{path}")
    data = file.read_bytes()
    changed = bytearray(data)
    changed[int(place * len(data))] ^= change
    try:
        file.write_bytes(changed)
        assert [problem for problem in versions.verify(whole, "v1") if path in problem]
        with pytest.raises(CorruptIndex, match=path):
            versions.activate(whole, "v1")
        assert versions.read_current(whole) is None
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("path", list(CONTENT))
def test_a_missing_a_longer_and_a_shorter_file_are_found(storage: Storage, path: str) -> None:
    publish(storage, "v1")
    file = storage.local_path(f"versions/v1/{path}")
    data = file.read_bytes()
    for damage, says in ((data + b"\0", "bytes"), (data[:-1], "bytes"), (None, "missing")):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        (problem,) = versions.verify(storage, "v1")
        assert path in problem
        assert says in problem


def test_an_extra_file_is_found(storage: Storage) -> None:
    publish(storage, "v1")
    storage.write("versions/v1/shard-00001/more.bin", b"x")
    (problem,) = versions.verify(storage, "v1")
    assert "shard-00001/more.bin is not in the manifest" in problem


def days(*numbers: int) -> list[str]:
    return [f"202601{number:02d}T000000-1a2b3c4d" for number in numbers]


def test_prune_keeps_current_previous_and_the_newest(storage: Storage) -> None:
    for version in days(1, 2, 3, 4, 5):
        publish(storage, version)
    versions.activate(storage, days(1)[0])
    versions.activate(storage, days(2)[0])
    assert versions.prune(storage, keep=1) == days(3, 4)
    assert versions.list_versions(storage) == days(1, 2, 5)
    assert versions.prune(storage, keep=0) == days(5)
    assert list(storage.list(layout.VERSIONS)) == days(1, 2)


def test_prune_without_a_current_version_keeps_the_newest(storage: Storage) -> None:
    for version in days(1, 2):
        publish(storage, version)
    assert versions.prune(storage, keep=1) == days(1)


def test_prune_removes_a_crashed_build_but_not_one_that_can_be_continued(storage: Storage) -> None:
    crashed, running = "20260101T000000-aaaaaaaa", "20260102T000000-bbbbbbbb"
    for version in (crashed, running):
        storage.write(f"{layout.version_dir(version)}/shard-00000/vectors.faiss", b"half")
    storage.write(layout.plan("b" * 64), b"{}")
    assert versions.list_versions(storage) == []
    assert versions.prune(storage, keep=10) == [crashed]
    assert list(storage.list(layout.VERSIONS)) == [running]


def test_prune_keeps_what_a_running_build_is_about_to_make_current(storage: Storage) -> None:
    for version in days(1, 2):
        publish(storage, version)
    storage.write(layout.plan(PLAN), b"{}")
    assert versions.prune(storage, keep=0) == []
    versions.activate(storage, days(2)[0], verified=True)
    versions.discard_staging(storage, PLAN)
    assert versions.prune(storage, keep=0) == days(1)


@pytest.mark.parametrize("moment", ["staging", "published"])
def test_prune_may_run_while_a_build_publishes_activates_and_ends(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (version,) = days(1)
    publish(storage, version)
    storage.delete(layout.manifest(version))
    storage.write(layout.plan(PLAN), b"{}")

    def end() -> None:
        publish(storage, version)
        versions.activate(storage, version, verified=True)
        versions.discard_staging(storage, PLAN)

    listing = Storage.list
    at = {"staging": layout.STAGING, "published": layout.VERSIONS}[moment]
    calls = []

    def overtaken(self: Storage, folder: str) -> Iterator[str]:
        calls.append(folder)
        if calls == [layout.VERSIONS, at] or calls == [layout.VERSIONS, layout.STAGING, at]:
            end()
        return listing(self, folder)

    monkeypatch.setattr(Storage, "list", overtaken)
    assert versions.prune(storage, keep=0) == []
    assert versions.verify(storage, version) == []


def test_a_version_that_is_pruned_while_it_is_verified_is_not_activated(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in days(1, 2):
        publish(storage, version)
    before = versions.activate(storage, days(2)[0])
    verify = versions.verify

    def overtaken(storage: Storage, version: str) -> list[str]:
        problems = verify(storage, version)
        versions.prune(storage, keep=0)
        return problems

    monkeypatch.setattr(versions, "verify", overtaken)
    with pytest.raises(Conflict, match="removed by `shoal index prune` while it was activated"):
        versions.activate(storage, days(1)[0])
    assert versions.read_current(storage) == before


@pytest.mark.parametrize("current", [None, days(2)[0]])
def test_a_version_that_is_pruned_before_current_names_it_is_not_left_current(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, current: str | None
) -> None:
    for version in days(1, 2):
        publish(storage, version)
    before = versions.activate(storage, current) if current else None
    write = Storage.write

    def overtaken(self: Storage, path: str, data: bytes) -> None:
        monkeypatch.undo()
        versions.prune(storage, keep=0)
        write(self, path, data)

    monkeypatch.setattr(Storage, "write", overtaken)
    with pytest.raises(Conflict, match="activate one that"):
        versions.activate(storage, days(1)[0])
    assert versions.read_current(storage) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_prune_leaves_a_version_that_is_activated_as_it_is_about_to_be_removed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before another one is removed, or after CURRENT was looked at for the last time before its own manifest goes."""
    for version in days(1, 2, 3):
        publish(storage, version)
    versions.activate(storage, days(3)[0])
    delete, overtaking = Storage.delete, layout.manifest(days(1 if moment == "before" else 2)[0])

    def overtaken(self: Storage, path: str) -> None:
        if path == overtaking:
            versions.activate(storage, days(2)[0])
        delete(self, path)

    monkeypatch.setattr(Storage, "delete", overtaken)
    assert versions.prune(storage, keep=0) == days(1)
    assert versions.verify(storage, days(2)[0]) == []
    now = versions.read_current(storage)
    assert now is not None
    assert (now.version, now.previous) == (days(2)[0], days(3)[0])


def test_prune_removes_a_dead_build_with_what_it_stored(storage: Storage) -> None:
    dead, running = "20260101T000000-aaaaaaaa", "20260102T000000-bbbbbbbb"
    for version, plan in ((dead, "a" * 64), (running, "b" * 64)):
        storage.write(f"{layout.version_dir(version)}/shard-00000/vectors.faiss", b"half")
        for path in (layout.plan(plan), layout.unit_data(plan, 0)):
            storage.write(path, b"{}")
    for path in storage.local_path(layout.staging_dir("a" * 64)).rglob("*"):
        os.utime(path, (0, 0))
    assert versions.prune(storage, keep=10) == [dead]
    assert list(storage.list(layout.STAGING)) == ["b" * 64]
    assert versions.prune(storage, keep=10, idle_s=0) == [running]
    assert list(storage.list(layout.STAGING)) == list(storage.list(layout.VERSIONS)) == []


def test_a_staging_folder_that_is_half_removed_has_lost_its_plan_first(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (layout.plan(PLAN), layout.unit_data(PLAN, 0), layout.unit_commit(PLAN, 0)):
        storage.write(path, b"{}")
    delete = Storage.delete

    def killed(self: Storage, path: str) -> None:
        if path == layout.staging_dir(PLAN):
            raise KeyboardInterrupt
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            versions.discard_staging(storage, PLAN)
    assert not storage.exists(layout.plan(PLAN))
    versions.discard_staging(storage, PLAN)
    assert list(storage.list(layout.STAGING)) == []


def test_prune_leaves_alone_what_no_build_wrote(storage: Storage) -> None:
    storage.write("versions/notes.txt", b"mine")
    storage.write("versions/lost+found/x", b"mine")
    assert versions.prune(storage, keep=0) == []
    assert list(storage.files(layout.VERSIONS)) == ["lost+found/x", "notes.txt"]


def test_prune_refuses_a_negative_number(storage: Storage) -> None:
    with pytest.raises(InvalidArgument, match="keep"):
        versions.prune(storage, keep=-1)


def test_what_would_fill_the_memory_is_not_read(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(storage, "v1")
    versions.activate(storage, "v1")
    monkeypatch.setattr(versions, "_MOST_MANIFEST_BYTES", len(storage.read(layout.manifest("v1"))))
    assert versions.current_manifest(storage).version == "v1"
    monkeypatch.setattr(versions, "_MOST_MANIFEST_BYTES", len(storage.read(layout.manifest("v1"))) - 1)
    with pytest.raises(CorruptIndex, match=f"{layout.manifest('v1')} has more than"):
        versions.current_manifest(storage)
    versions.refuse(storage, "v1", [2**16 * "x"])
    assert versions.read_refusals(storage) == {}
    storage.write(layout.CURRENT, b" " * 2**16 + storage.read(layout.CURRENT))
    with pytest.raises(CorruptIndex, match="CURRENT has more than 65536 bytes"):
        versions.read_current(storage)
