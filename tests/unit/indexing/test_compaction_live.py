"""An index that is written to answers alike before and after what was written is compacted."""

from pathlib import Path
from typing import Any

import shoal
from shoal.index_root.log import Log
from shoal.indexing.compaction import compact
from shoal.modes import Mode, modes_of
from shoal.settings import CompactSettings
from tests.support.written import Root


def answers(index: shoal.Index, **options: Any) -> dict[Mode, list[tuple[str, float]]]:
    """Ids and scores in every mode of an index of vectors and words."""
    found: dict[Mode, list[tuple[str, float]]] = {}
    for mode in modes_of(("dense", "lexical")):
        answer = index.search("passage about topic 3", mode=mode, rerank=False, **options)
        found[mode] = [(result.id, round(result.score, 5)) for result in answer.results]
    return found


def test_answers_are_the_same_before_and_after(tmp_path: Path) -> None:
    root = Root(tmp_path)
    with shoal.open(root.storage.uri, reranker="overlap") as index:
        index.upsert([{"id": "p1", "text": "written topic"}, {"id": "n1", "text": "new passage about topic 3"}])
        live = answers(index, min_position=index.delete(["p2"]).position)
    assert compact(CompactSettings(index=root.storage.uri), Log.open(root.storage)) is not None
    with shoal.open(root.storage.uri, reranker="overlap") as index:
        assert answers(index) == live
        assert {"n1", "p1"} <= {id_ for id_, _ in live["dense"]}
        index.upsert([{"id": "p3", "text": "topic"}, {"id": "p2", "text": "topic 3 is back"}])
        live = answers(index, min_position=index.delete(["n1"]).position)
    assert compact(CompactSettings(index=root.storage.uri), Log.open(root.storage)) is not None
    with shoal.open(root.storage.uri, reranker="overlap") as index:
        assert answers(index) == live
        assert index.describe().passages == 5
