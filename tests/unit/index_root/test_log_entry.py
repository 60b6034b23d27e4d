"""Entries of the log come back as they were written, or not at all."""

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CorruptIndex, InvalidArgument
from shoal.index_root import log_entry, signatures
from shoal.index_root.digests import document_digests
from shoal.index_root.document_write import DOCUMENT_SCHEMA
from shoal.index_root.log_entry import (
    DocumentWrite,
    LogEntry,
    LoggedRequest,
    RetiredState,
    decode_entry,
    encode_entry,
)
from tests.support.log_entries import delete, entries, entry, passage, plain, upsert

KEY, OTHER_KEY = "k" * 32, "o" * 32
PLACE = "root/log/entries/7.arrow"
SMALL = entry(7, [upsert("a", "one two two"), delete("größe"), DocumentWrite("c", RetiredState({}, 0, 0), (
    passage("c#1", codes=True), passage("c#2", "", codes=True)))], keys=["k1"])  # fmt: skip


def checksum(body: bytes) -> bytes:
    return f"sha256:{hashlib.sha256(body).hexdigest()}\n".encode()


def body_of(data: bytes) -> bytes:
    return data[: -len(checksum(b""))]


@given(entries())
def test_an_entry_comes_back_as_it_was(written: LogEntry) -> None:
    assert plain(decode_entry(encode_entry(written), PLACE)) == plain(written)


@given(entries())
def test_equal_entries_are_equal_bytes(written: LogEntry) -> None:
    data = encode_entry(written)
    assert encode_entry(decode_entry(data, PLACE)) == data


def test_every_changed_byte_and_every_cut_is_found() -> None:
    data = encode_entry(SMALL)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(CorruptIndex, match=PLACE):
            decode_entry(bytes(flipped), PLACE)
        with pytest.raises(CorruptIndex, match=PLACE):
            decode_entry(data[:place], PLACE)
    with pytest.raises(CorruptIndex):
        decode_entry(data + b"\0", PLACE)


@settings(max_examples=300)
@given(st.data())
def test_who_makes_the_checksum_anew_gets_an_entry_or_an_error(data: Any) -> None:
    """Nothing that lies in the file may end the process, whoever wrote it."""
    body = bytearray(body_of(encode_entry(SMALL)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body) - 8))
        body[start : start + data.draw(st.integers(1, 8))] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        read = decode_entry(bytes(body) + checksum(bytes(body)), PLACE)
    except CorruptIndex:
        return
    repr(plain(read))  # looks at every value


def test_an_entry_without_a_batch_is_damaged() -> None:
    schema = pa.ipc.open_stream(body_of(encode_entry(SMALL))).schema
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    body = sink.getvalue().to_pybytes()
    with pytest.raises(CorruptIndex, match="no record batch"):
        decode_entry(body + checksum(body), PLACE)


def hostile(change: dict[str, Any], written: LogEntry = SMALL, compression: str | None = None) -> bytes:
    """The file of an entry with other columns, and a checksum that is right."""
    batch = pa.ipc.open_stream(body_of(encode_entry(written))).read_next_batch()
    columns = {name: change.get(name, batch.column(name)) for name in batch.schema.names}
    nullable = [field.with_nullable(True) for field in batch.schema]  # so that Arrow writes it
    schema = batch.schema if compression or "header" in change else pa.schema(nullable, batch.schema.metadata)
    if "header" in change:
        header = json.loads(batch.schema.metadata[b"shoal"]) | change["header"]
        schema = schema.with_metadata({b"shoal": json.dumps(header).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    body = sink.getvalue().to_pybytes()
    return body + checksum(body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": {"format": 2}}, "this Shoal reads 1"),
        ({"header": {"dim": 5}}, "5 dimensions"),
        ({"header": {"dim": -1}}, "dim"),
        ({"header": {"width": 2}}, "reshape"),
        ({"header": {"position": 0}}, "position"),
        ({"header": {"position": 2**63}}, "position"),
        ({"header": {"written_at": math.nan}}, "written_at"),
        ({"header": {"more": 1}}, "more"),
        ({"header": {"requests": [{"key": None, "body_digest": "", "first": 2, "count": 2, "answer": {}}]}}, "beyond"),
    ],
)
def test_what_the_header_says_has_to_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptIndex, match=message):
        decode_entry(hostile(change), PLACE)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_entry_is_refused(compression: str) -> None:
    """A few bytes of it could become more than there is memory."""
    long = entry(7, [upsert("a", "word " * 500)])
    with pytest.raises(CorruptIndex, match="compressed"):
        decode_entry(hostile({}, long, compression), PLACE)


def with_rows(change: dict[str, list[Any]]) -> bytes:
    batch = pa.ipc.open_stream(body_of(encode_entry(SMALL))).read_next_batch()
    arrays = [
        pa.array(change[field.name], field.type) if field.name in change else batch.column(field.name)
        for field in batch.schema
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=batch.schema))
    body = sink.getvalue().to_pybytes()
    return body + checksum(body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": [1, 1, 0, 0, 1, 1]}, "begin with a document"),
        ({"op": [0, 1, 2, 0, 1, 1]}, "begin with a document"),
        ({"op": [0, 1, 1, 0, 1, 1]}, "no id or no text|dimensions|another document"),
        ({"op": [0, None, 0, 0, 1, 1]}, "missing values"),
        ({"document": ["a", "b", "größe", "c", "c", "c"]}, "digests"),
        ({"digest": [1, 2, 3, 4, 5, 6]}, "digests"),
        ({"id": [None] * 6}, "no id"),
        ({"text": [None] * 6}, "no text"),
        ({"metadata": [None, "[1]", None, None, None, None]}, "no object"),
        ({"metadata": [None, "{", None, None, None, None]}, PLACE),
        ({"metadata": [None, "[" * 100_000, None, None, None, None]}, PLACE),
        ({"vector": [None] * 6}, "dimensions"),
        ({"vector": [None, [1.0], None, None, [1.0], [1.0]]}, "dimensions"),
        ({"vector": [None, [None] * 4, None, None, [1.0] * 4, [1.0] * 4]}, "missing|null|dimensions"),
        ({"tokens": [None, b"abcd", None, None, None, None]}, "reshape"),
        ({"terms": [["one"], [], [], [], [], []]}, "belong together"),
        ({"terms": [[], ["one", None], ["one"], [], ["one", "two"], []]}, "belong together|null"),
        ({"counts": [[], [1], [], [], [], []]}, "belong together"),
        ({"terms": [[], ["one", "one"], [], [], [], []], "counts": [[], [1, 1], [], [], [], []]}, "stands twice"),
    ],
)
def test_rows_have_to_be_documents(change: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(CorruptIndex, match=message):
        decode_entry(with_rows(change), PLACE)


def test_other_columns_and_several_batches_are_refused() -> None:
    with pytest.raises(CorruptIndex, match="other columns"):
        decode_entry(hostile({"op": pa.nulls(6, pa.int8())}), PLACE)
    batch = pa.ipc.open_stream(body_of(encode_entry(SMALL))).read_next_batch()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    with pytest.raises(CorruptIndex, match="several"):
        decode_entry(body + checksum(body), PLACE)


def test_more_than_an_entry_may_have_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_entry(SMALL)
    monkeypatch.setattr(log_entry, "MOST_ENTRY_BYTES", len(data))
    assert encode_entry(SMALL) == data
    assert decode_entry(data, PLACE).position == 7
    monkeypatch.setattr(log_entry, "MOST_ENTRY_BYTES", len(data) - 1)
    with pytest.raises(InvalidArgument, match="write fewer at once"):
        encode_entry(SMALL)
    with pytest.raises(CorruptIndex, match="more than"):
        decode_entry(data, PLACE)


@pytest.mark.parametrize(
    "written",
    [
        entry(7, [DocumentWrite("a", RetiredState({}, 0, 0), (passage("a", dim=3), passage("b", dim=4)))]),
        entry(7, [DocumentWrite("a", RetiredState({}, 0, 0), (replace(passage("a"), codes=np.zeros(3, np.uint8)),))]),
        entry(7, [DocumentWrite("a", RetiredState({}, 0, 0), (replace(passage("a"), codes=np.zeros((1, 1))),))]),
        entry(7, [DocumentWrite("a", RetiredState({}, 0, 0), (replace(passage("a"), text="\ud800"),))]),
        entry(7, [DocumentWrite("a", RetiredState({}, 0, 0), (replace(passage("a"), metadata={"a": math.inf}),))]),
        replace(entry(7), requests=(LoggedRequest("k", "d", 0, 1, {}),)),
        replace(entry(7), written_at=math.nan),
        entry(0),
    ],
)
def test_what_no_reader_would_accept_is_not_written(written: LogEntry) -> None:
    with pytest.raises(ValueError):
        encode_entry(written)


def test_an_entry_is_signed_where_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_data = encode_entry(SMALL)
    monkeypatch.setenv(signatures.KEY, KEY)
    signed = encode_entry(SMALL)
    assert signed.startswith(body_of(plain_data))
    assert plain(decode_entry(signed, PLACE)) == plain(SMALL)
    with pytest.raises(CorruptIndex, match="not signed"):
        decode_entry(plain_data, PLACE)
    for place in range(len(signed)):
        with pytest.raises(CorruptIndex):
            decode_entry(signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :], PLACE)
    monkeypatch.setenv(signatures.KEY, OTHER_KEY)
    with pytest.raises(CorruptIndex, match="not signed with a key of this process"):
        decode_entry(signed, PLACE)
    monkeypatch.delenv(signatures.KEY)
    assert plain(decode_entry(signed, PLACE)) == plain(SMALL)


def test_a_signature_does_not_fit_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signatures.KEY, KEY)
    signature = body_of(encode_entry(SMALL))[-77:]
    other = body_of(encode_entry(replace(SMALL, position=8)))[:-77] + signature
    with pytest.raises(CorruptIndex, match="not signed with a key"):
        decode_entry(other + checksum(other), PLACE)


def test_the_digest_of_a_document_is_that_of_the_shards() -> None:
    write = upsert("größe")
    assert write.digest == document_digests(["größe"])[0]
    assert write.digest.dtype == np.uint64


def test_vectors_that_were_read_do_not_change() -> None:
    vector = decode_entry(encode_entry(SMALL), PLACE).documents[0].passages[0].vector
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 0


def test_the_columns_are_those_of_the_file() -> None:
    assert pa.ipc.open_stream(encode_entry(SMALL)).schema.equals(DOCUMENT_SCHEMA)
