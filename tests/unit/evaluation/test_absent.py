"""Judged passages that a version does not hold: counted, told, and no ground for a gate."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.report import Summary
from shoal.evaluation import report
from shoal.evaluation.absent import Absent, absent_passages
from shoal.evaluation.dataset import Dataset
from shoal.evaluation.evaluate import evaluate
from shoal.evaluation.gate import Answers, Gate, ask, judge, read_gate, to_json
from shoal.evaluation.runs import Run
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.settings import BuildSettings, EvaluateSettings, LexicalSettings
from tests.support.indexes import passages, publish

JUDGEMENTS = {"a": {"p1": 1, "p7": 1}, "b": {"p30": 2, "gone": 0}, "c": {"gone#3": 1, "p59": 1}}
DATASET = Dataset("fish", {"a": "red fish", "b": "green heron", "c": "blue otter"}, JUDGEMENTS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "root", "v1", passages(60), shards=3, lexical=LexicalSettings())
    return tmp_path / "root"


def test_relevant_passages_are_looked_for_in_every_shard(root: Path) -> None:
    storage = Storage(str(root))
    manifest = Manifest.from_bytes(storage.read("versions/v1/manifest.json"), "v1")
    absent = absent_passages(storage, manifest, JUDGEMENTS)
    assert absent == Absent(["gone#3"], 5)  # what is judged irrelevant is no miss
    assert absent.share == 0.2
    assert str(absent) == "1 of 5 passages that are judged relevant are not in the index, such as 'gone#3'"
    assert absent_passages(storage, manifest, {"a": {"p1": 1}}) == Absent([], 1)


def test_a_gate_is_refused_that_rests_on_passages_that_are_not_there(root: Path) -> None:
    settings = BuildSettings(source="s", index=str(root), encoder="hashing:64")
    answers = ask(Storage(str(root)), settings, "v1", DATASET, 0)
    assert answers.absent == Absent(["gone#3"], 5)
    verdict = judge(Gate(min_ndcg=0.0), Manifest.model_construct(), lambda: answers)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("1 of 5 passages that are judged relevant are not in the index, such as")
    assert to_json(verdict)["absent"] == {"judged": 5, "count": 1, "examples": ["gone#3"]}
    allowed = judge(Gate(min_ndcg=0.0, max_lost=0.2), Manifest.model_construct(), lambda: answers)
    assert allowed.passed
    summary = Summary("i", "v1", "p", False, True, 1, 0, 0, 1, 1, None, gate=to_json(allowed))
    assert ("", "1 of 5 relevant passages are not in the version") in summary.rows()


def test_queries_that_were_made_from_the_version_lack_nothing(root: Path) -> None:
    settings = BuildSettings(source="s", index=str(root), encoder="hashing:64")
    assert ask(Storage(str(root)), settings, "v1", None, 5).absent is None
    run = Run("dense", {"a": ["p1"], "b": [], "c": []})
    assert judge(Gate(min_ndcg=0.0), Manifest.model_construct(), lambda: Answers(DATASET, run, None)).passed


def test_the_share_that_may_be_absent_is_that_which_may_be_lost(tmp_path: Path) -> None:
    settings = BuildSettings(source="s", index="i", gate=["max_drop=0.1"], sample_judgements=5, max_lost=0.3)
    gate = read_gate(settings)
    assert gate is not None
    assert gate.max_lost == 0.3


def test_an_evaluation_says_how_many_judged_passages_are_missing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "fish" / "qrels").mkdir(parents=True)
    (tmp_path / "fish" / "queries.jsonl").write_text('{"_id": "a", "text": "red fish"}\n')
    (tmp_path / "fish" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\tp1\t1\na\t<gone>\t1\n")
    settings = EvaluateSettings(dataset=str(tmp_path / "fish"), index=str(root), rerank="no", modes=["dense"])
    outcome = evaluate(settings, lambda settings, queries: [Run("dense", {"a": ["p1"]})])
    assert (outcome.to_json()["judged"], outcome.to_json()["absent"]) == (2, 1)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(outcome))
    told = "1 of 2 passages that are judged relevant are not in the index, such as '<gone>': they count as misses"
    assert told in console.export_text()
    assert "&#x27;&lt;gone&gt;&#x27;: they count as misses" in report.page(outcome)
    whole = replace(outcome, absent=Absent([], 2))
    assert "misses" not in report.page(whole)
    assert evaluate(replace_index(settings), lambda settings, queries: [Run("dense", {"a": ["p1"]})]).absent is None


def replace_index(settings: EvaluateSettings) -> EvaluateSettings:
    return settings.model_copy(update={"index": None, "url": "http://127.0.0.1:1"})
