"""Updates that bring another vector."""

import numpy as np
import pytest

from shoal.errors import InvalidArgument
from shoal.records import Passage
from shoal.testing.fakes import DIM
from shoal.writing.requests import MetadataUpdate, PassageWrite, Updated
from tests.support.writing import Writing, manifest

BLUE = Passage("blue", "a blue fish", metadata={"year": 2021})


async def test_an_update_may_bring_another_vector() -> None:
    writing = Writing([BLUE])
    given = np.arange(1, DIM + 1) * 1e30
    update = MetadataUpdate("blue", {"lang": "en"}, vector=given.tolist())
    assert await writing.update(update) == Updated(1, 1, 0, [])
    (passage,) = writing.log.read()[0].documents[0].passages
    assert (passage.text, passage.metadata) == (BLUE.text, {**BLUE.metadata, "lang": "en"})
    np.testing.assert_allclose(passage.vector, given / np.linalg.norm(given), rtol=1e-6)
    assert await writing.update(update) == Updated(1, 0, 1, [])
    with pytest.raises(InvalidArgument, match=r"updates\[0\] \(id 'blue'\): the vector has 2 numbers"):
        await writing.update(MetadataUpdate("blue", {}, vector=[1, 2]))
    assert writing.encoder.calls == []
    writing.writer.close()


async def test_a_vector_stands_for_no_text_that_was_cut() -> None:
    cut = Writing(described=manifest(chunk_characters=50))
    await cut.write(PassageWrite("long", "a red fish swims in the sea. " * 9))
    with pytest.raises(InvalidArgument, match="which one vector cannot stand for"):
        await cut.update(MetadataUpdate("long", {}, vector=[1] * DIM))
    cut.writer.close()
