"""Signed index roots: what somebody without the key writes is neither served, verified nor activated."""

import json
import shutil
from pathlib import Path

import pytest

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import layout, signatures, versions
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from tests.support.indexes import passages, publish

KEY, OTHER = "k" * 64, "o" * 64


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (signatures.KEY, signatures.KEY_FILE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "root"


def with_key(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    monkeypatch.setenv(signatures.KEY, "\n".join(keys))


def forged(storage: Storage, version: str) -> None:
    """Give another text to a version, with a checksum of its own that fits."""
    path = layout.manifest(version)
    manifest = Manifest.from_bytes(storage.read(path), path)
    storage.write(path, manifest.model_copy(update={"created_at": "2027-01-01T00:00:00+00:00"}).to_bytes())


def test_without_a_key_nothing_is_signed_and_no_signature_is_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(root))
    publish(root, "v1", passages(4))
    assert not storage.exists(layout.signature("v1"))
    assert set(json.loads(storage.read(layout.CURRENT))) == {"version", "previous", "activated_at"}
    with_key(monkeypatch, KEY)
    publish(root, "v2", passages(4))
    with_key(monkeypatch)
    forged(storage, "v2")
    assert versions.current_manifest(storage).version == "v2"
    assert versions.verify(storage, "v2") == []


def test_what_was_published_with_the_key_is_read_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    with_key(monkeypatch, KEY)
    publish(root, "v1", passages(4))
    publish(root, "v2", passages(4))
    assert versions.verify(storage, "v2") == []
    assert versions.read_manifest(storage, "v2").version == "v2"
    assert versions.rollback(storage).version == "v1"
    assert versions.read_current(storage) == versions.activate(storage, "v1")
    assert KEY.encode() not in b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_an_unsigned_or_changed_manifest_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    publish(root, "old", passages(4), activate=False)
    with_key(monkeypatch, KEY)
    publish(root, "v1", passages(4))
    publish(root, "v2", passages(4), activate=False)
    forged(storage, "v2")
    shutil.copytree(root / layout.version_dir("v1"), root / layout.version_dir("v3"))  # under another name
    for version, problem in (
        ("old", "is not signed"),
        ("v2", "is not signed with a key"),
        ("v3", "belongs to version"),
    ):
        with pytest.raises(CorruptIndex, match=f"{layout.manifest(version)} {problem}"):
            versions.read_manifest(storage, version)
        assert problem in versions.verify(storage, version)[0]
        with pytest.raises(CorruptIndex, match=problem):
            versions.activate(storage, version)
    assert versions.current_manifest(storage).version == "v1"


def test_a_current_that_somebody_else_wrote_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    with_key(monkeypatch, KEY)
    publish(root, "v1", passages(4))
    publish(root, "v2", passages(4))
    whole = json.loads(storage.read(layout.CURRENT))
    unsigned = {name: value for name, value in whole.items() if name != "signature"}
    signed_as_manifest = storage.read(layout.signature("v1")).decode().strip()
    for wrong in (
        unsigned,
        {**whole, "version": "v1"},
        {**whole, "previous": None},
        {**whole, "signature": signed_as_manifest},
        {**whole, "signature": 5},
        {**whole, "signature": "hmac-sha256:" + "é" * 64},
    ):
        storage.write(layout.CURRENT, json.dumps(wrong).encode())
        with pytest.raises(CorruptIndex, match=f"{layout.CURRENT} "):
            versions.read_current(storage)
        with pytest.raises(CorruptIndex):
            versions.current_manifest(storage)
    assert versions.activate(storage, "v2").version == "v2"
    assert versions.current_manifest(storage).version == "v2"


def test_keys_are_changed_without_a_gap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    with_key(monkeypatch, KEY)
    publish(root, "v1", passages(4))
    with_key(monkeypatch, OTHER, KEY)
    publish(root, "v2", passages(4))
    assert [versions.read_manifest(storage, version).version for version in ("v1", "v2")] == ["v1", "v2"]
    with_key(monkeypatch, OTHER)
    assert versions.current_manifest(storage).version == "v2"
    with pytest.raises(CorruptIndex, match="not signed with a key of this process"):
        versions.read_manifest(storage, "v1")


def test_a_root_is_signed_afterwards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    publish(root, "v1", passages(4))
    publish(root, "v2", passages(4))
    before = versions.read_current(storage)
    with pytest.raises(InvalidArgument, match=signatures.KEY):
        versions.sign(storage)
    with_key(monkeypatch, KEY)
    assert versions.sign(storage) == ["v1", "v2"]
    assert versions.read_current(storage) == before
    assert versions.current_manifest(storage).version == "v2"
    assert [versions.verify(storage, version) for version in ("v1", "v2")] == [[], []]


def test_a_damaged_version_is_not_signed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(root))
    publish(root, "v1", passages(4))
    file = root / layout.shard_dir("v1", 0) / layout.PASSAGES
    file.write_bytes(file.read_bytes()[:-1])
    with_key(monkeypatch, KEY)
    with pytest.raises(CorruptIndex, match=r"version v1 is not signed: .*passages"):
        versions.sign(storage)
    with pytest.raises(CorruptIndex, match="is not signed"):
        versions.read_manifest(storage, "v1")


def test_the_key_may_lie_in_a_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    monkeypatch.setenv(signatures.KEY_FILE, str(file))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        publish(root, "v1", passages(4))
    for short in ("", "\n", "short", f"{KEY}\nshort"):
        file.write_text(short)
        with pytest.raises(InvalidArgument, match="32 characters or more") as error:
            signatures.signing_keys()
        assert "short" not in str(error.value)
    file.write_text(f"{KEY}\n")
    publish(root, "v1", passages(4))
    monkeypatch.delenv(signatures.KEY_FILE)
    with_key(monkeypatch, KEY)
    assert versions.current_manifest(Storage(str(root))).version == "v1"
