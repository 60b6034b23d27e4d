"""What is asked of the query encoder, and of the sparse model beside it."""

import asyncio

import numpy as np
import pytest

from shoal.errors import DeadlineExceeded
from shoal.records import FloatArray
from shoal.search.encode_stage import EncodeStage, Wanted
from shoal.search.services import NullObserver
from shoal.testing.fakes import FakeEncoder, now, serve_settings, vector_of, virtual_time


def stage(encoder: FakeEncoder) -> EncodeStage:
    return EncodeStage(encoder, serve_settings(), now, NullObserver())


@virtual_time
async def test_terms_alone_take_no_call_for_vectors() -> None:
    encoder = FakeEncoder()
    encoded = await stage(encoder).encode("red fish red", now() + 10, Wanted(vector=False, terms=True))
    assert encoded.vector is None
    assert encoded.terms is not None
    assert [array.tolist() for array in encoded.terms] == [[3, 4], [2, 1]]
    assert (encoder.calls, encoder.sparse_calls) == ([], [["red fish red"]])


@virtual_time
async def test_queries_that_wait_together_share_the_calls_and_each_gets_what_it_wants() -> None:
    encoder = FakeEncoder()
    encoding = stage(encoder)
    first, *others = await asyncio.gather(
        encoding.encode("otter", now() + 10, Wanted()),
        encoding.encode("red fish", now() + 10, Wanted(terms=True)),
        encoding.encode("red fish", now() + 10, Wanted(vector=False, terms=True)),
        encoding.encode("heron", now() + 10, Wanted()),
    )
    assert first.terms is None
    assert [encoded.terms is not None for encoded in others] == [True, True, False]
    for encoded, text in ((first, "otter"), (others[0], "red fish"), (others[2], "heron")):
        np.testing.assert_array_equal(encoded.vector, vector_of(text))
    assert encoder.sparse_calls == [["red fish"]]


@virtual_time
async def test_vectors_alone_take_no_call_for_terms() -> None:
    encoder = FakeEncoder()
    encoded = await stage(encoder).encode("red fish", now() + 10, Wanted())
    assert encoded.terms is None
    assert encoder.sparse_calls == []


class RememberingFakeEncoder(FakeEncoder):
    """Remembers the vectors of one text, and of another that is none."""

    def recall(self, query: str, instruction: str | None = None) -> FloatArray | None:
        if instruction is not None:
            return None
        return {"known": vector_of("known"), "broken": np.full(8, np.nan, np.float32)}.get(query)


@virtual_time
async def test_a_vector_that_is_remembered_is_not_waited_for() -> None:
    encoder = RememberingFakeEncoder()
    encoding = stage(encoder)
    encoded = await encoding.encode("known", now() + 10, Wanted())
    np.testing.assert_array_equal(encoded.vector, vector_of("known"))
    assert (encoded.batch, encoder.calls) == (1, [])
    for query, wanted, instruction in (
        ("new", Wanted(), None),
        ("known", Wanted(), "claims"),
        ("known", Wanted(tokens=True), None),
        ("broken", Wanted(), None),
    ):
        await encoding.encode(query, now() + 10, wanted, instruction)
    assert encoder.calls == [["new"], ["known"], ["known"], ["broken"]]
    with pytest.raises(DeadlineExceeded):
        await encoding.encode("known", now() - 1, Wanted())
