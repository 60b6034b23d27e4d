"""The gate of a build: demands, verdicts, and queries made from the corpus."""

from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import nDCG

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Dataset
from shoal.evaluation.gate import Answers, Gate, ask, judge, read_gate, to_json
from shoal.evaluation.known_items import WORDS, known_items
from shoal.evaluation.runs import Run
from shoal.index_root import layout
from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.records import Passage
from shoal.settings import BuildSettings, LexicalSettings
from tests.support.indexes import passages, publish

DATASET = Dataset("fish", {"a": "sleep", "b": "swim", "c": "eat"}, {"a": {"p1": 1}, "b": {"p2": 2}, "c": {"p3": 1}})
GOOD = {"a": ["p1"], "b": ["p2"], "c": ["p3"]}
WORSE = {"a": ["p9", "p1"], "b": ["p2"], "c": ["p8"]}


def settings(**changes: Any) -> BuildSettings:
    return BuildSettings(source="s", index="i", **changes)


def manifest(recall: float | None = None) -> Manifest:
    index = VectorIndexInfo(kind="ivf", search="", recall_at_10=recall, latency_ms=None)
    return Manifest.model_construct(index=index)


def answers(new: dict[str, list[str]], active: dict[str, list[str]] | None = None) -> Answers:
    return Answers(DATASET, Run("hybrid", new), Run("hybrid", active) if active else None)


def ndcg(rankings: dict[str, list[str]]) -> float:
    run = {query: {passage: 1 / rank for rank, passage in enumerate(ids, 1)} for query, ids in rankings.items()}
    return float(ir_measures.calc_aggregate([nDCG @ 10], DATASET.judgements, run)[nDCG @ 10])


def never() -> Answers:
    raise AssertionError("nothing is to be asked")


def test_without_a_demand_there_is_no_gate() -> None:
    assert read_gate(settings()) is None


def test_demands_and_judgements_are_read(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "sleep"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\tp1\t1\n")
    gate = read_gate(settings(gate=[f"qrels={tmp_path}", "min_ndcg=0.5", "max_drop=0", "recall=0.9"]))
    assert gate is not None
    assert (gate.recall, gate.min_ndcg, gate.max_drop, gate.sample) == (0.9, 0.5, 0.0, 0)
    assert gate.dataset is not None
    assert gate.dataset.judgements == {"a": {"p1": 1}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": ["recall=1.5"]}, "recall should be a number from 0 to 1, not '1.5'"),
        ({"gate": ["recall=much"]}, "recall should be"),
        ({"gate": ["recall=nan"]}, "recall should be"),
        ({"gate": ["recall=0.5", "recall=0.6"]}, "twice"),
        ({"gate": ["recall=0.9"], "verify_queries": 0}, "verify-queries"),
        ({"gate": ["max_drop=0.01"]}, "need judged queries"),
        ({"gate": ["qrels=/nowhere"]}, "have to reach"),
        ({"gate": ["qrels=/nowhere", "max_drop=0.01"]}, "/nowhere"),
        ({"gate": ["qrels=/nowhere", "max_drop=0.01"], "sample_judgements": 5}, "leave out either"),
        ({"sample_judgements": 5}, "add --gate"),
    ],
)
def test_a_gate_that_cannot_be_is_told_before_the_build(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        read_gate(settings(**changes))


def test_an_unknown_demand_is_refused() -> None:
    with pytest.raises(ValueError, match="gate"):
        settings(gate=["ndgc=0.5"])


@pytest.mark.parametrize(("recall", "passed"), [(0.96, True), (0.95, True), (0.94, False), (None, False)])
def test_recall_is_what_the_build_has_measured(recall: float | None, passed: bool) -> None:
    assert judge(Gate(recall=0.95), manifest(recall), never).passed == passed


def test_a_recall_that_was_not_measured_is_told_with_the_remedy() -> None:
    verdict = judge(Gate(recall=0.95), manifest(None), never)
    assert verdict.reasons == [
        "recall@10 was not measured by its build (--verify-queries 0); build it again with --rebuild"
    ]
    assert not verdict.measured


@pytest.mark.parametrize(
    ("max_drop", "new", "active", "passed"),
    [(0.01, WORSE, GOOD, False), (0.5, WORSE, GOOD, True), (0.0, GOOD, GOOD, True), (0.0, GOOD, WORSE, True)],
)
def test_a_version_may_lose_so_much_against_the_active_one(
    max_drop: float, new: dict[str, list[str]], active: dict[str, list[str]], passed: bool
) -> None:
    verdict = judge(Gate(max_drop=max_drop), manifest(), lambda: answers(new, active))
    assert verdict.passed == passed
    assert verdict.measured["ndcg_at_10"] == pytest.approx(ndcg(new), abs=1e-4)
    assert verdict.measured["active_ndcg_at_10"] == pytest.approx(ndcg(active), abs=1e-4)


def test_the_queries_that_fell_are_named_the_deepest_first() -> None:
    verdict = judge(Gate(max_drop=0.01), manifest(), lambda: answers(WORSE, GOOD))
    assert [(one.id, one.text, one.before) for one in verdict.fallen] == [("c", "eat", 1.0), ("a", "sleep", 1.0)]
    assert to_json(verdict)["fallen"][0] == {"id": "c", "text": "eat", "before": 1.0, "now": 0.0}


def test_the_first_version_has_nothing_to_lose_but_has_to_be_good_enough() -> None:
    assert judge(Gate(max_drop=0.0), manifest(), lambda: answers(WORSE)).passed
    verdict = judge(Gate(min_ndcg=0.9), manifest(), lambda: answers(WORSE))
    assert [one.id for one in verdict.fallen] == ["c", "a"]
    assert not verdict.passed
    assert judge(Gate(min_ndcg=0.5), manifest(), lambda: answers(WORSE)).passed


def test_known_items_are_words_of_their_passage_and_common_ones_hardly_occur() -> None:
    corpus = [Passage(f"p{n}", "the common words " * 5 + f"rare{n} odd{n} seldom{n} scarce{n}") for n in range(50)]
    dataset = known_items(corpus)
    assert len(dataset.queries) == 50
    assert dataset == known_items(corpus)
    drawn: list[str] = []
    for (query, text), passage in zip(dataset.queries.items(), corpus, strict=True):
        assert dataset.judgements[query] == {passage.id: 1}
        words = text.split()
        assert len(words) == len(set(words)) == WORDS
        assert set(words) <= set(passage.text.split())
        drawn += words[:]
    assert sum(word[-1].isdigit() for word in drawn) == 200


def test_a_known_item_without_spaces_is_a_piece_of_its_text() -> None:
    text = "珊瑚礁是由珊瑚虫的骨骼在数百年至数万年的生长过程中形成的" * 3
    (query,) = known_items([Passage("p", text)]).queries.values()
    assert query
    assert query in text


def test_a_version_is_asked_beside_the_active_one_and_finds_its_known_items(tmp_path: Path) -> None:
    content = passages(60, "river")
    publish(tmp_path, "v1", content[:20], lexical=LexicalSettings())
    publish(tmp_path, "v2", content, shards=3, lexical=LexicalSettings(), activate=False)
    build = BuildSettings(source="s", index=str(tmp_path), encoder="hashing:64")
    found = ask(Storage(build.index), build, "v2", None, 30)
    assert found.active is not None
    assert len(found.dataset.queries) == 30
    relevant = {query: next(iter(judged)) for query, judged in found.dataset.judgements.items()}
    first = sum(found.new.rankings[query][0] == passage for query, passage in relevant.items())
    assert first >= 25
    assert {passage for ranking in found.active.rankings.values() for passage in ranking} <= {
        f"p{n}" for n in range(20)
    }
    assert ask(Storage(build.index), build, "v1", found.dataset, 0).active is None
    Storage(str(tmp_path)).write(layout.CURRENT, b"half of it")
    assert ask(Storage(build.index), build, "v2", found.dataset, 0).active is None
