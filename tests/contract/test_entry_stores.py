"""Every store of the log passes the same suite: on disk, on S3 (a real server), and the one that tests simulate."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal.errors import CorruptIndex, InvalidArgument, NotFound, Unavailable
from shoal.index_root import entry_store, layout, local_entry_store, object_entry_store
from shoal.index_root.entry_store import CreateOutcome, EntryStore, check_conditional_create
from shoal.index_root.log import open_entry_store
from shoal.index_root.storage import Storage
from shoal.testing.entry_stores import Faults, SimulatedEntryStore, SimulatedObjects
from shoal.testing.virtual_threads import VirtualThreads

NAMES = [layout.log_entry(position) for position in (1, 2, 3, 10, 1000)]


@pytest.fixture(params=["local", "s3", "simulated"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EntryStore]:
    match request.param:
        case "local":
            (tmp_path / "root").mkdir()
            yield open_entry_store(Storage(str(tmp_path / "root")))
        case "s3":
            yield open_entry_store(Storage(request.getfixturevalue("s3_uri")))
        case _:
            yield SimulatedEntryStore(SimulatedObjects(VirtualThreads(0)), Faults())


def test_a_file_is_created_once(store: EntryStore) -> None:
    assert store.read(NAMES[0]) is None
    assert not store.exists(NAMES[0])
    assert store.create(NAMES[0], b"first") is CreateOutcome.CREATED
    assert store.create(NAMES[0], b"second") is CreateOutcome.EXISTS
    assert store.create(NAMES[0], b"first") is CreateOutcome.EXISTS
    assert store.read(NAMES[0]) == b"first"
    assert store.exists(NAMES[0])
    store.confirm()


def test_a_root_that_was_removed_is_not_made_again_by_a_late_write(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    store = open_entry_store(Storage(str(tmp_path / "root")))
    (tmp_path / "root").rmdir()
    with pytest.raises(NotFound, match="there is no index root"):
        store.create(NAMES[0], b"late")
    assert not (tmp_path / "root").exists()


def test_an_empty_and_a_large_file_come_back(store: EntryStore) -> None:
    large = bytes(range(256)) * 40_000
    assert store.create(NAMES[0], b"") is CreateOutcome.CREATED
    assert store.create(NAMES[1], large) is CreateOutcome.CREATED
    assert [store.read(name) for name in NAMES[:2]] == [b"", large]


def test_names_are_those_of_a_folder_in_order(store: EntryStore) -> None:
    assert store.names(layout.LOG_ENTRIES) == []
    for name in reversed(NAMES):
        store.create(name, b"x")
    store.create(layout.log_floor(7), b"")
    assert store.names(layout.LOG_ENTRIES) == NAMES
    assert store.names(layout.LOG_ENTRIES, after=NAMES[2]) == NAMES[3:]
    assert store.names(layout.LOG_ENTRIES, after=layout.log_entry(4)) == NAMES[3:]
    assert store.names(layout.LOG_ENTRIES, after=NAMES[-1]) == []
    assert store.names(layout.LOG_FLOORS) == [layout.log_floor(7)]
    assert store.names(layout.LOG_SEGMENTS) == []


def test_what_is_removed_is_gone_and_can_be_created_again(store: EntryStore) -> None:
    store.delete(NAMES[0])
    store.create(NAMES[0], b"first")
    store.delete(NAMES[0])
    store.delete(NAMES[0])
    assert store.read(NAMES[0]) is None
    assert store.names(layout.LOG_ENTRIES) == []
    assert store.create(NAMES[0], b"second") is CreateOutcome.CREATED
    assert store.read(NAMES[0]) == b"second"


def test_the_store_tells_when_a_file_was_created(store: EntryStore) -> None:
    store.create(NAMES[0], b"first")
    store.create(NAMES[1], b"second")
    first, second = (store.written_at(name) for name in NAMES[:2])
    assert first is not None
    assert second is not None
    assert first <= second
    assert store.written_at(NAMES[2]) is None


def test_the_store_keeps_the_condition(store: EntryStore) -> None:
    check_conditional_create(store)
    assert store.names(layout.LOG_PROBES) == []


@pytest.mark.parametrize("store", ["local", "s3"], indirect=True)
def test_of_many_that_create_a_file_at_once_one_succeeds(store: EntryStore) -> None:
    threads, names = 4, [layout.log_entry(position) for position in range(1, 21)]
    ready = threading.Barrier(threads)

    def race(number: int) -> list[CreateOutcome]:
        outcomes = []
        for name in names:
            ready.wait()
            outcomes.append(store.create(name, str(number).encode()))
        return outcomes

    with ThreadPoolExecutor(threads) as pool:
        columns = list(pool.map(race, range(threads)))
    for name, outcomes in zip(names, zip(*columns, strict=True), strict=True):
        assert sorted(outcome.value for outcome in outcomes) == ["created", "exists", "exists", "exists"]
        assert store.read(name) == str(outcomes.index(CreateOutcome.CREATED)).encode()


@pytest.mark.parametrize("store", ["local", "s3"], indirect=True)
def test_more_than_an_entry_may_have_is_not_read(store: EntryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create(NAMES[0], b"123456")
    for module in (entry_store, local_entry_store, object_entry_store):
        monkeypatch.setattr(module, "MOST_ENTRY_BYTES", 5)
    with pytest.raises(CorruptIndex, match="more than 5 bytes"):
        store.read(NAMES[0])


def test_a_store_that_ignores_the_condition_is_refused() -> None:
    store = SimulatedEntryStore(SimulatedObjects(VirtualThreads(0)), Faults())
    store.conditional = False
    with pytest.raises(InvalidArgument, match="overwrites"):
        check_conditional_create(store)
    assert store.names(layout.LOG_PROBES) == []
    unsure = SimulatedEntryStore(SimulatedObjects(VirtualThreads(0)), Faults(lost_answer=1.0))
    with pytest.raises(Unavailable, match="does not answer"):
        check_conditional_create(unsure)


def test_a_root_on_s3_is_found_by_its_own_options(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of the URI come before the environment, as they do for everything else of the root."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    storage = Storage(s3_uri)
    store = open_entry_store(storage)
    assert store.create(NAMES[0], b"first") is CreateOutcome.CREATED
    assert storage.read(NAMES[0]) == b"first"
    assert store.place(NAMES[0]) == storage.place(NAMES[0])


def test_an_endpoint_may_lack_its_scheme(s3_uri: str) -> None:
    store = open_entry_store(Storage(s3_uri.replace("http://127", "127") + "&scheme=http"))
    assert store.create(NAMES[0], b"first") is CreateOutcome.CREATED


def test_the_keys_of_a_profile_are_used(s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\n[work]\naws_access_key_id = b\naws_secret_access_key = c%d\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert object_entry_store._profile() == {"aws_access_key_id": "b", "aws_secret_access_key": "c%d"}
    assert open_entry_store(Storage(s3_uri)).create(NAMES[0], b"first") is CreateOutcome.CREATED
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert object_entry_store._profile() == {}
    file.write_bytes(b"\xff")
    assert object_entry_store._profile() == {}


def test_a_missing_bucket_and_a_dead_endpoint_say_so(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_entry_store(Storage(s3_uri.replace("s3://shoal-", "s3://other-")))
    for call in (lambda: store.create(NAMES[0], b""), lambda: store.read(NAMES[0])):
        with pytest.raises(NotFound, match="no such bucket"):
            call()
    monkeypatch.setattr(object_entry_store, "_RETRIES", {"max_retries": 0})
    dead = open_entry_store(Storage("s3://bucket/index?endpoint_override=http://127.0.0.1:9&region=us-east-1"))
    assert dead.create(NAMES[0], b"") is CreateOutcome.UNKNOWN
    for call in (lambda: dead.read(NAMES[0]), lambda: dead.names(layout.LOG_ENTRIES), lambda: dead.exists(NAMES[0])):
        with pytest.raises(Unavailable, match="cannot be reached"):
            call()


def test_other_stores_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="not abfs"):
        open_entry_store(Storage("abfs://container@account.dfs.core.windows.net/index"))
    with pytest.raises(InvalidArgument, match="no option"):
        open_entry_store(Storage("gs://bucket/index?project_id=p"))
