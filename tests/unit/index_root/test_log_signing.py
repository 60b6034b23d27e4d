"""Entries that were written without a key are signed later, by whoever knows who wrote them."""

import pytest

from shoal.errors import CorruptIndex
from shoal.index_root import layout, log, log_segments, log_writer, signatures
from shoal.index_root.log import Log
from shoal.index_root.log_signing import sign_log
from shoal.index_root.log_writer import LogWriter
from shoal.index_root.storage import Storage
from tests.support.log_entries import plain
from tests.support.logs import Clock, append, open_log, positions

KEY, OTHER_KEY = "k" * 32, "o" * 32


def test_a_log_is_signed_once_and_read_as_before(
    writer: LogWriter, root: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (log_segments, log_writer):
        monkeypatch.setattr(module, "SEGMENT_ENTRIES", 10)
    monkeypatch.setattr(log, "_BEHIND", 1)
    written = [plain(each) for each in append(writer, 12)]
    assert writer.write_segments() == [(1, 10)]
    monkeypatch.setenv(signatures.KEY, KEY)
    with pytest.raises(CorruptIndex, match="is not signed"):
        list(Log.open(root).read(0))
    assert sign_log(root) == 12
    assert sign_log(root) == 0
    assert [plain(each) for each in Log.open(root).read(0)] == written
    with_key = LogWriter(open_log(root, clock), 12)
    append(with_key, 8)
    assert with_key.write_segments() == [(1, 10), (11, 20)]
    assert positions(Log.open(root).read(0)) == list(range(1, 21))
    assert sign_log(root) == 0
    assert len(list(root.files(layout.LOG_SEGMENTS.rstrip("/")))) == 2


def test_what_was_changed_is_not_signed(writer: LogWriter, root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    append(writer, 2)
    path = root.local_path(layout.log_entry(2))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setenv(signatures.KEY, KEY)
    with pytest.raises(CorruptIndex, match="checksum"):
        sign_log(root)


def test_a_new_key_signs_anew_unless_the_old_one_is_still_good(
    writer: LogWriter, root: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(signatures.KEY, KEY)
    append(writer, 2)
    monkeypatch.setenv(signatures.KEY, f"{OTHER_KEY}\n{KEY}")
    assert sign_log(root) == 0
    monkeypatch.setenv(signatures.KEY, OTHER_KEY)
    assert sign_log(root) == 2
    assert positions(Log.open(root).read(0)) == [1, 2]
