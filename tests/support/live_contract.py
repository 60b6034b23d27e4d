"""What holds of writes wherever an index is searched: the log is laid over the version by every engine alike."""

from pathlib import Path

import pytest

from shoal.encoders import load_encoder
from shoal.errors import ShoalError
from shoal.records import Passage
from shoal.settings import EncoderSettings
from tests.support.engine_contract import COUNT, Asker, EngineContract
from tests.support.indexes import passages
from tests.support.live import append, document


class LiveEngineContract(EngineContract):
    """All of the contract, and behind it, since the log holds for all versions from there on, what was written."""

    def test_what_is_written_is_seen_as_if_it_had_been_built(self, asker: Asker, engine_root: Path) -> None:
        model = load_encoder(EncoderSettings(encoder="hashing:64"))
        assert asker.describe().live is None
        assert asker.search("otter").position is None
        content = passages(COUNT, marker="of-v1")
        new = Passage("lynx-1", "the spotted lynx", metadata={"number": 1000, "colour": "spotted"})
        changed = Passage("p7", "a lynx where p7 was", metadata={"number": 7})
        position = append(
            engine_root,
            document([new], [], model),
            document([changed], [content[7]], model),
            document([], [content[8]], model, "p8"),
        )
        seen = asker.search("lynx", mode="lexical", min_position=position)
        assert [result.id for result in seen.results] == ["p7", "lynx-1"] or [result.id for result in seen.results] == [
            "lynx-1",
            "p7",
        ]
        assert seen.position == position == asker.search("lynx", consistency="strong").position == 1
        best = asker.search("the spotted lynx", mode="dense", top_k=3, rerank=False, min_position=1).results[0]
        assert (best.id, best.text, best.metadata) == ("lynx-1", new.text, dict(new.metadata))
        filtered = asker.search("lynx", filter={"colour": "spotted"}, facets=["colour"], min_position=1)
        assert [result.id for result in filtered.results] == ["lynx-1"]
        assert filtered.facets is not None
        assert [(count.value, count.count) for count in filtered.facets["colour"]] == [("spotted", 1)]
        late = asker.search("lynx", rerank="late", top_k=5, min_position=1)
        assert late.degraded is None
        fetched = asker.fetch(["p7", "p8", "lynx-1"])
        assert [passage.text for passage in fetched.passages] == [changed.text, new.text]
        assert fetched.missing == ["p8"]
        assert "p8" not in asker.list().ids
        assert "lynx-1" in asker.list(prefix="l").ids
        described = asker.describe()
        assert described.live is not None
        assert described.passages == described.live["passages"] == COUNT
        assert described.fields == {"colour": "string", "number": "integer"}
        assert (described.live["position"], described.live["rows"], described.live["dead"]) == (1, 2, 2)

    def test_what_nobody_has_written_yet_is_waited_for_until_the_deadline(self, asker: Asker) -> None:
        with pytest.raises(ShoalError, match="position 9 of the log is not reached yet, only 1") as error:
            asker.search("otter", min_position=9, timeout_ms=300)
        assert error.value.code == "DEADLINE_EXCEEDED"

    def test_passages_and_lists_of_ids_are_read_at_a_position(self, asker: Asker, engine_root: Path) -> None:
        model = load_encoder(EncoderSettings(encoder="hashing:64"))
        gnus = [Passage(f"gnu-{number}", f"a gnu, the {number}th") for number in range(5)]
        position = append(engine_root, *(document([gnu], [], model) for gnu in gnus))
        assert asker.list(prefix="gnu-", min_position=position).ids == [gnu.id for gnu in gnus]
        position = append(engine_root, *(document([], [gnu], model, gnu.id) for gnu in gnus[1:]))
        fetched = asker.fetch([gnu.id for gnu in gnus], min_position=position)
        assert ([passage.id for passage in fetched.passages], fetched.degraded) == (["gnu-0"], None)
        assert fetched.missing == [gnu.id for gnu in gnus[1:]]
        position = append(engine_root, document([], [gnus[0]], model, "gnu-0"))
        assert asker.list(prefix="gnu-", min_position=position).ids == []
