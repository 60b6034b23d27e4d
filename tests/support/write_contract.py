"""What holds wherever an index is written to: in this process, by `shoal serve --local`, by a server on Ray.

class TestMine(WriteContract):
    @pytest.fixture(scope="class")
    def engine(self, written_root: Path) -> Iterator[Asker]:
        with shoal.open(written_root, **SETTINGS) as index:
            yield index
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.encoders import load_encoder
from shoal.errors import Conflict, InvalidArgument, Overloaded
from shoal.index_root.log import Log
from shoal.indexing.compaction import compact
from shoal.settings import CompactSettings, EncoderSettings, LateSettings, LexicalSettings
from tests.support.indexes import passages, publish
from tests.support.namespace_contract import NamespaceContract
from tests.support.servers import wait

COUNT = 60
MOST_ROWS = 600
"""Passages that may be written to a shard before something is compacted: more than the other tests write."""
SETTINGS: dict[str, Any] = {"reranker": "none", "watch_s": 0.1, "max_backlog_rows": MOST_ROWS}
"""How every engine is opened."""

Asker = shoal.Index | shoal.Client


class WriteContract(NamespaceContract):
    """The calls of `shoal.Client` that write, whoever answers them. Each test has ids of its own."""

    @pytest.fixture(scope="class")
    def written_root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("contract") / "index"
        late = LateSettings(late_interaction="stored", late_dims=32, late_bits=8)
        publish(root, "v1", passages(COUNT), lexical=LexicalSettings(), late=late, writable=True)
        return root

    @staticmethod
    def ids(asker: Asker, query: str, position: int, **options: Any) -> list[str]:
        """What an engine finds by words once it has seen a position."""
        answer = asker.search(query, mode="lexical", min_position=position, **options)
        assert answer.position is not None
        assert answer.position >= position
        return [result.id for result in answer.results]

    def test_whoever_writes_reads_what_was_written(self, engine: Asker) -> None:
        summary = engine.upsert(
            [{"id": "own-1", "text": "a quokka", "title": "Marsupials", "metadata": {"year": 2021}}]
        )
        assert (summary.written, summary.unchanged) == (1, 0)
        assert summary.position >= 1
        for mode in ("dense", "lexical", "hybrid"):
            found = engine.search("Marsupials quokka", mode=mode, top_n=1, min_position=summary.position).results[0]
            assert (found.id, found.text, found.metadata) == ("own-1", "a quokka", {"year": 2021})
        late = engine.search("quokka", rerank="late", top_n=1, min_position=summary.position)
        assert (late.results[0].id, late.reranker) == ("own-1", "late")
        (fetched,) = engine.fetch(["own-1"], include=["text", "vector"]).passages
        encoder = load_encoder(EncoderSettings(encoder="hashing:64"))
        assert fetched.vector is not None
        np.testing.assert_allclose(fetched.vector, encoder.encode_passages(["Marsupials a quokka"])[0], atol=1e-5)
        assert engine.list(prefix="own-").ids == ["own-1"]

    def test_a_write_takes_the_place_of_what_was_there(self, engine: Asker) -> None:
        assert self.ids(engine, "n41", 0) == ["p41"]
        position = engine.upsert([{"id": "p41", "text": "an axolotl"}]).position
        assert self.ids(engine, "axolotl", position) == ["p41"]
        assert self.ids(engine, "n41", position) == []
        again = engine.upsert([{"id": "p41", "text": "an axolotl"}])
        assert (again.written, again.unchanged) == (0, 1)
        assert again.position >= position

    def test_what_was_deleted_is_gone(self, engine: Asker) -> None:
        engine.upsert(
            [
                {"id": f"gone-{number}", "text": f"an ibex {number}", "metadata": {"herd": number % 2}}
                for number in range(6)
            ]
        )
        summary = engine.delete(["gone-0", "gone-nothing", "p40"])
        assert summary.deleted == 2
        assert sorted(self.ids(engine, "ibex", summary.position)) == [f"gone-{number}" for number in range(1, 6)]
        assert self.ids(engine, "n40", summary.position) == []
        summary = engine.delete(filter={"herd": 1})
        assert summary.deleted == 3
        assert sorted(self.ids(engine, "ibex", summary.position)) == ["gone-2", "gone-4"]
        assert engine.fetch(["gone-1", "gone-2"]).missing == ["gone-1"]
        with pytest.raises(InvalidArgument):
            engine.delete(filter={"no such field": 1})
        for wrong in ({}, {"ids": ["a"], "all": True}, {"ids": "one string"}):
            with pytest.raises(InvalidArgument):
                engine.delete(**wrong)  # type: ignore[arg-type]

    def test_metadata_changes_and_the_rest_stays(self, engine: Asker) -> None:
        vector = engine.fetch(["p7"], include=["vector"]).passages[0].vector
        summary = engine.update([{"id": "p7", "metadata": {"colour": "red"}}, {"id": "nobody", "metadata": {"a": 1}}])
        assert (summary.updated, summary.unchanged, summary.missing) == (1, 0, ["nobody"])
        assert self.ids(engine, "n7", summary.position, filter={"colour": "red", "number": 7}) == ["p7"]
        (fetched,) = engine.fetch(["p7"], include=["metadata", "vector"]).passages
        assert fetched.metadata == {"number": 7, "colour": "red"}
        np.testing.assert_allclose(fetched.vector, vector, atol=1e-6)  # type: ignore[arg-type]
        summary = engine.update([{"id": "p7", "metadata": {"number": 8}, "merge": False}])
        assert self.ids(engine, "n7", summary.position, filter={"number": 8}) == ["p7"]
        assert self.ids(engine, "n7", summary.position, filter={"colour": {"$exists": True}}) == []

    def test_conditions_are_kept(self, engine: Asker) -> None:
        first = engine.upsert([{"id": "if-1", "text": "first", "if": {"absent": True}}])
        with pytest.raises(Conflict, match="it should be absent"):
            engine.upsert([{"id": "if-2", "text": "x"}, {"id": "if-1", "text": "y", "if": {"absent": True}}])
        assert engine.fetch(["if-2"]).missing == ["if-2"]
        second = engine.upsert([{"id": "if-1", "text": "second", "if": {"position": first.position}}])
        with pytest.raises(Conflict, match=f"last written at position {second.position}"):
            engine.upsert([{"id": "if-1", "text": "third", "if": {"position": first.position}}])
        assert engine.upsert([{"id": "p3", "text": "from the source", "if": {"position": 0}}]).written == 1

    def test_a_record_brings_its_vector(self, engine: Asker) -> None:
        vector = np.zeros(64, np.float32)
        vector[5] = 3
        position = engine.upsert(
            [{"id": "v-1", "vector": vector}, {"id": "v-2", "text": "own", "vector": (-vector).tolist()}]
        ).position
        assert self.ids(engine, "own", position) == ["v-2"]
        fetched = engine.fetch(["v-1", "v-2"], include=["text", "vector"]).passages
        assert [passage.text or "" for passage in fetched] == ["", "own"]
        np.testing.assert_allclose([passage.vector for passage in fetched], [vector / 3, -vector / 3], atol=1e-6)  # type: ignore[arg-type]

    def test_all_bad_records_are_named_and_none_of_the_request_is_written(self, engine: Asker) -> None:
        with pytest.raises(InvalidArgument) as refused:
            engine.upsert(
                [
                    {"id": "bad-0", "text": "good"},
                    {"id": "bad-1", "text": " "},
                    {"id": "bad-2", "text": "x", "metadata": {"number": "no integer"}},
                    {"id": "bad-3", "text": "x", "vector": [1.0, 2.0]},
                ]
            )
        for number in (1, 2, 3):
            assert f"passages[{number}] (id 'bad-{number}')" in refused.value.message
        assert refused.value.param == "passages[1]"
        assert engine.fetch([f"bad-{number}" for number in range(4)]).passages == []

    def test_many_passages_are_written_in_requests_one_after_another(self, engine: Asker) -> None:
        done: list[int] = []
        many = ({"id": f"many-{number % 50}", "text": f"tapir {number}"} for number in range(120))
        summary = engine.upsert(many, batch_passages=40, progress=done.append)
        assert (summary.written, summary.unchanged) == (120, 0)
        assert done[-1] == 120
        assert all(later - earlier <= 40 for earlier, later in pairwise(done))
        found = engine.search("tapir", mode="lexical", top_n=100, top_k=100, min_position=summary.position).results
        assert {result.id: result.text for result in found} == {
            f"many-{number % 50}": f"tapir {number}" for number in range(70, 120)
        }
        with pytest.raises(InvalidArgument) as refused:
            engine.upsert([{"id": "many-a", "text": "x"}, {"id": "many-b", "text": ""}], batch_passages=1)
        assert refused.value.__notes__ == ["1 passages were done by the requests before"]

    def test_nothing_is_taken_beyond_the_limit_until_it_is_compacted(
        self, engine: Asker, written_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last of this class, as it fills the log."""
        if isinstance(engine, shoal.Client):
            monkeypatch.setattr(engine._protocol, "attempts", 1)  # it would wait for the compaction
        written, refusals = 0, list[Overloaded]()

        def upsert() -> bool:
            nonlocal written
            records = [{"id": f"full-{number}", "text": f"a coati {written + number}"} for number in range(200)]
            try:
                engine.upsert(records, batch_passages=200)
            except Overloaded as refused:
                refusals.append(refused)
                return False
            written += 200
            return True

        while upsert():
            assert written < 10 * MOST_ROWS
        assert written
        assert "max_backlog_rows" in refusals[0].message
        assert "shoal compact" in refusals[0].message
        assert refusals[0].retry_after_s
        manifest = compact(CompactSettings(index=str(written_root)), Log.open(str(written_root)))
        assert manifest is not None
        wait(upsert)
        assert engine.describe().version == manifest.version
