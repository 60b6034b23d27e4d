"""Evaluation: data sets, run files, measures, significance, reports, and whole evaluations over an index."""

import gzip
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import evaluate as job
from shoal.client.clients import Client
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument
from shoal.evaluation import asking, report
from shoal.evaluation.asking import LocalAsker, ServerAsker, ask_all
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.evaluate import evaluate
from shoal.evaluation.measures import MEASURES, judge, paired_p_value
from shoal.evaluation.runs import Run, extended, joined, read_run, write_run
from shoal.index_root import layout, versions
from shoal.index_root.manifest import CurvePoint, VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.inference import models
from shoal.records import Passage
from shoal.rerankers import load_reranker
from shoal.settings import (
    EncoderSettings,
    EvaluateSettings,
    LateSettings,
    LexicalSettings,
    RerankerSettings,
    ServeSettings,
)
from tests.support.indexes import publish


def beir(folder: Path, queries: dict[str, str], judgements: str, *, zipped: bool = False) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = "".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in queries.items()).encode()
    if zipped:
        (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines))
    else:
        (folder / "queries.jsonl").write_bytes(lines)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}")
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_judged_queries_are_read(tmp_path: Path, zipped: bool) -> None:
    queries = {"q1": "one", "q2": "two", "q3": "not judged", "q4": "nothing relevant"}
    found = read_dataset(
        str(beir(tmp_path / "set", queries, "q1\ta\t2\nq1\tb\t0\nq2\tc\t1\nq4\ta\t0\n", zipped=zipped))
    )
    assert found == Dataset("set", {"q1": "one", "q2": "two"}, {"q1": {"a": 2, "b": 0}, "q2": {"c": 1}})
    assert found.sample(5) == found.sample(None) == found
    assert len(found.sample(1).queries) == len(found.sample(1).judgements) == 1
    assert found.sample(1) == found.sample(1)


@pytest.mark.parametrize(
    ("queries", "judgements", "message"),
    [
        ('{"_id": "q1", "text": "x"}\n{"text": "x"}\n', "q1\ta\t1\n", r"queries.jsonl:2: not a query"),
        ('{"_id": "q1"', "q1\ta\t1\n", r"queries.jsonl:1: not a query"),
        ("", "q1\ta\t1\n", r"lacks 1 judged queries, such as 'q1'"),
        ("", "q1\ta\n", r"test.tsv:2: not a judgement"),
        ("", "q1\ta\tmuch\n", r"test.tsv:2: not a judgement"),
        ("", "q1\ta\t0\n", r"judges no passage as relevant"),
    ],
)
def test_what_is_no_data_set_is_named(tmp_path: Path, queries: str, judgements: str, message: str) -> None:
    folder = beir(tmp_path / "set", {}, judgements)
    (folder / "queries.jsonl").write_text(queries)
    with pytest.raises(InvalidArgument, match=message):
        read_dataset(str(folder))
    with pytest.raises(InvalidArgument, match=r"nowhere.tsv \(or .gz\) cannot be read"):
        read_dataset(str(folder), "nowhere")


def test_a_run_survives_its_file_and_is_ordered_by_its_scores(tmp_path: Path) -> None:
    run = Run("hybrid+rerank", {"q1": [f"p{n}" for n in range(100)], "q2": ["ä"], "q3": []})
    path = write_run(run, str(tmp_path))
    assert read_run(str(path)) == Run("hybrid+rerank", {"q1": run.rankings["q1"], "q2": ["ä"]})
    assert {(one.query_id, one.doc_id) for one in ir_measures.read_trec_run(str(path))} == {
        (query, passage) for query, ranking in run.rankings.items() for passage in ranking
    }
    path.write_text("q Q0 low 1 0.5 x\nq Q0 high 2 0.9 x\n\n")
    assert read_run(str(path)).rankings == {"q": ["high", "low"]}
    path.write_text("q Q0 low\n")
    with pytest.raises(InvalidArgument, match=r"trec:1: not a line of a TREC run"):
        read_run(str(path))
    with pytest.raises(InvalidArgument, match="has white space"):
        write_run(Run("x", {"q": ["a b"]}), str(tmp_path))
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_run(str(tmp_path / "missing.trec"))


def test_runs_are_extended_and_joined() -> None:
    first = Run("dense", {"q": ["a", "b", "c", "d"]})
    assert extended(Run("dense+rerank", {"q": ["c", "a"]}, {"q": 1.0}, 1), first) == Run(
        "dense+rerank", {"q": ["c", "a", "b", "d"]}, {"q": 1.0}, 1
    )
    parts = [Run("x", {"q": ["a"]}, {"q": 1.0}, 1), Run("x", {"r": ["b"]}, {"r": 2.0}, 2)]
    assert joined(parts) == Run("x", {"q": ["a"], "r": ["b"]}, {"q": 1.0, "r": 2.0}, 3)


passages = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@settings(max_examples=25, deadline=None)
@given(
    rankings=st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), passages, max_size=3),
    grades=st.dictionaries(
        st.sampled_from(["q1", "q2", "q3"]),
        st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 3), min_size=1),
        min_size=1,
    ),
)
def test_measures_are_those_of_trec_eval(rankings: dict[str, list[str]], grades: dict[str, dict[str, int]]) -> None:
    (row,) = judge([Run("x", rankings)], grades)
    for query, judged in grades.items():
        gains = [judged.get(passage, 0) for passage in rankings.get(query, [])[:10]]
        best = sorted(judged.values(), reverse=True)[:10]
        discounted = [sum(gain / np.log2(rank + 1) for rank, gain in enumerate(list_, 1)) for list_ in (gains, best)]
        assert row.by_query[query] == pytest.approx(discounted[0] / discounted[1])
    recalls = [len(set(rankings.get(query, [])) & judged.keys()) / len(judged) for query, judged in grades.items()]
    assert row.values["Recall@100"] == pytest.approx(np.mean(recalls))
    firsts = [
        next((1 / rank for rank, one in enumerate(rankings.get(query, []), 1) if one in judged), 0.0)
        for query, judged in grades.items()
    ]
    assert row.values["MRR@10"] == pytest.approx(np.mean(firsts))


def test_significance_is_that_of_all_permutations() -> None:
    one = {"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.8, "e": 0.3, "same": 0.5}
    other = {"a": 0.5, "b": 0.6, "c": 0.2, "d": 0.8, "e": 0.4, "same": 0.5}
    differences = np.array([one[query] - other[query] for query in one])
    sums = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=len(differences))]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_p_value(one, other) == pytest.approx(exact)
    assert paired_p_value(one, one) == 1.0
    many = {str(n): n % 7 / 7 for n in range(200)}
    better = {query: value + 0.01 for query, value in many.items()}
    assert paired_p_value(better, many) < 0.001


def test_rows_are_compared_with_the_baseline() -> None:
    runs = [Run("a", {"q": ["x", "y"]}), Run("b", {"q": ["y", "x"]}, {"q": 3.0})]
    rows = judge(runs, {"q": {"y": 1}})
    assert (rows[0].difference, rows[0].p_value, rows[0].p50_ms) == (None, None, None)
    assert rows[1].difference == pytest.approx(1 - 1 / np.log2(3))
    assert (rows[1].p50_ms, rows[1].p95_ms, rows[1].p_value) == (3.0, 3.0, 1.0)
    assert judge(runs, {"q": {"y": 1}}, "b")[1].difference is None
    with pytest.raises(InvalidArgument, match="baseline 'c' is not among a, b"):
        judge(runs, {"q": {"y": 1}}, "c")
    with pytest.raises(InvalidArgument, match="two runs have one name"):
        judge([runs[0], runs[0]], {"q": {"y": 1}})


TEXTS = {
    "p0": "the otter sleeps in the river",
    "p1": "herons fish in the shallow river",
    "p2": "a quick newt under a stone",
    "p3": "stones of the river bed",
    "p4": "<script>alert(1)</script> snails",
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    queries = {"q1": "where do otters sleep", "q2": "newt & <stone>", "q3": "snails"}
    return beir(tmp_path / "fauna", queries, "q1\tp0\t1\nq2\tp2\t1\nq2\tp3\t1\nq3\tp4\t1\n")


def test_an_index_is_evaluated_in_every_mode_and_reported(tmp_path: Path, dataset: Path) -> None:
    content = [Passage(id_, text) for id_, text in TEXTS.items()]
    publish(tmp_path / "root", "v1", content, lexical=LexicalSettings())
    options: dict[str, Any] = {"dataset": str(dataset), "index": str(tmp_path / "root"), "reranker": "overlap"}
    outcome = evaluate(EvaluateSettings(**options, save_runs=str(tmp_path / "runs")))
    assert [row.name for row in outcome.rows] == [
        f"{mode}{stage}" for mode in ("dense", "lexical", "hybrid") for stage in ("", "+rerank")
    ]
    by_name = {row.name: row for row in outcome.rows}
    assert by_name["lexical"].by_query == {"q1": 1.0, "q2": 1.0, "q3": 1.0}
    assert all(row.p50_ms and not row.degraded for row in outcome.rows)

    # The run files, measured on their own, give the same numbers.
    files = ",".join(str(path) for path in sorted((tmp_path / "runs").iterdir())).split(",")
    again = evaluate(EvaluateSettings(dataset=str(dataset), runs=files, baseline="dense"))
    assert {row.name: row.values for row in again.rows} == {row.name: row.values for row in outcome.rows}

    assert json.loads(json.dumps(outcome.to_json()))["rows"][2]["values"]["nDCG@10"] == 1.0
    page = report.page(outcome)
    assert "newt &amp; &lt;stone&gt;" in page or by_name["dense"].by_query["q2"] == 1.0
    assert not re.search(
        r"(src|href)=|https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)",
        page.replace("xlink:href", ""),
    )
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_what_was_trained_for_late_interaction_is_evaluated_as_it_is_served(tmp_path: Path) -> None:
    manifest = publish(
        tmp_path / "root", "v1", [Passage(id_, text) for id_, text in TEXTS.items()], lexical=LexicalSettings()
    )
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / models.TRAINED).write_text('{"kind": "late_interaction"}')
    storage, encoder = Storage(str(tmp_path / "root")), load_encoder(EncoderSettings(encoder="hashing:64"))
    overlap, text = load_reranker(RerankerSettings(reranker="overlap")), next(iter(TEXTS.values()))
    for name, adds in (("overlap", False), (str(tmp_path / "trained"), True)):
        serve = ServeSettings(index=storage.uri, reranker=name)
        with LocalAsker(storage, manifest, encoder, overlap, serve, 10_000) as asker:
            best = asker.answer(text, "hybrid", True, 3).results[0]
        assert (best.score != best.rerank_score) is adds


def test_the_report_draws_the_recall_latency_curve_that_the_manifest_has(tmp_path: Path, dataset: Path) -> None:
    publish(tmp_path / "root", "v1", [Passage(id_, text) for id_, text in TEXTS.items()])
    storage = Storage(str(tmp_path / "root"))
    points = [CurvePoint(search=f"nprobe={n}", recall=1 - 0.2 / n, latency_ms=n / 8) for n in (1, 4, 16)]
    tuned = VectorIndexInfo(kind="ivf", search="nprobe=4", recall_at_10=0.95, latency_ms=0.5, curve=points)
    manifest = versions.read_manifest(storage, "v1").model_copy(update={"index": tuned})
    storage.write(layout.manifest("v1"), manifest.to_bytes())
    row = Run("dense", {"q1": ["p0"]})
    asked = EvaluateSettings(dataset=str(dataset), index=str(tmp_path / "root"), rerank="no")
    outcome = evaluate(asked, lambda settings, queries: [row])
    assert outcome.vectors == tuned
    drawing = re.findall(r"<svg.*?</svg>", report.page(outcome), re.DOTALL)[-1]
    shown = [text.text for text in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]
    assert {"nprobe=1", "nprobe=4", "nprobe=16", "used: nprobe=4, recall 0.9500", "recall@10"} <= set(shown)
    exact = replace(outcome, vectors=tuned.model_copy(update={"curve": []}))
    assert "Recall and latency" not in report.page(exact)


def test_the_job_spreads_the_queries_and_finds_the_same(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "root", "v1", [Passage(id_, text) for id_, text in TEXTS.items()], lexical=LexicalSettings())
    calls: list[tuple[Any, ...]] = []

    def inline(function: Any, arguments: Any, limit: int, **options: float) -> Any:
        for one in arguments:
            calls.append(one)
            yield function(*one)

    monkeypatch.setattr(job, "ray_session", nullcontext)
    monkeypatch.setattr(job, "spread", inline)
    options: dict[str, Any] = {"dataset": str(dataset), "index": str(tmp_path / "root"), "reranker": "overlap"}
    job.evaluate(EvaluateSettings(**options), workers=2, as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [sorted(part) for _, part in calls] == [["q1", "q2"], ["q3"]]
    assert {row["name"]: row["values"] for row in rows} == {
        row.name: row.values for row in evaluate(EvaluateSettings(**options)).rows
    }


def test_a_version_without_words_is_evaluated_by_vectors(tmp_path: Path, dataset: Path) -> None:
    publish(tmp_path / "root", "v1", [Passage(id_, text) for id_, text in TEXTS.items()])
    options: dict[str, Any] = {"dataset": str(dataset), "index": str(tmp_path / "root"), "rerank": "no"}
    assert [row.name for row in evaluate(EvaluateSettings(**options)).rows] == ["dense"]
    with pytest.raises(InvalidArgument, match="cannot be searched in mode hybrid"):
        evaluate(EvaluateSettings(**options, modes=["hybrid"]))


def test_stored_tokens_are_evaluated_beside_stage_one(tmp_path: Path, dataset: Path) -> None:
    content = [Passage(id_, text) for id_, text in TEXTS.items()]
    stored = LateSettings(late_interaction="stored", late_dims=16, late_bits=8)
    publish(tmp_path / "late", "v1", content, encoder="hashing:16", late=stored)
    options: dict[str, Any] = {"dataset": str(dataset), "rerank": "late"}
    outcome = evaluate(EvaluateSettings(**options, index=str(tmp_path / "late")))
    assert [(row.name, row.degraded) for row in outcome.rows] == [("dense", 0), ("dense+late", 0)]
    publish(tmp_path / "plain", "v1", content)
    with pytest.raises(InvalidArgument, match="build it with --late-interaction stored"):
        evaluate(EvaluateSettings(**options, index=str(tmp_path / "plain")))


def test_nothing_to_evaluate_is_refused(dataset: Path) -> None:
    with pytest.raises(InvalidArgument, match="give --index ROOT, --url URL or --runs"):
        evaluate(EvaluateSettings(dataset=str(dataset)))
    with pytest.raises(InvalidArgument, match="either --index ROOT or --url URL"):
        evaluate(EvaluateSettings(dataset=str(dataset), index="a", url="http://b"))


def test_a_server_is_asked_for_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/index":
            models = {"encoder": "e", "reranker": None}
            facts = {"version": "v", "previous": None, "passages": 1, "shards": 1, "dim": 8, "metric": "cosine"}
            return httpx.Response(200, json={**facts, "kind": "flat", "modes": ["dense", "hybrid"], "models": models})
        asked.append(json.loads(request.content))
        coverage = {"shards": 2, "answered": 1, "fraction": 0.5}
        result = {"id": "p1", "score": 1.0, "retrieval_score": 1.0, "retrieval_rank": 1}
        body = {"id": "r", "index_version": "v", "results": [result], "reranked": False, "coverage": coverage}
        return httpx.Response(200, json={**body, "degraded": "1 of 2 shards is missing" if len(asked) == 3 else None})

    monkeypatch.setattr(
        asking, "Client", lambda url, timeout_s: Client(url, timeout_s=timeout_s, transport=httpx.MockTransport(answer))
    )
    with ServerAsker("http://server", 5000) as asker:
        assert (asker.modes, asker.reranks) == (["dense", "hybrid"], False)
        run = ask_all(asker, {"q1": "one", "q2": "two"}, "hybrid", False, 100)
    assert [body["query"] for body in asked] == ["one", "one", "two"]
    body = {"query": "two", "mode": "hybrid", "rerank": False, "top_k": 100, "top_n": 100, "include": []}
    assert asked[2] == {**body, "timeout_ms": 5000}
    assert (run.name, run.rankings, run.degraded) == ("hybrid", {"q1": ["p1"], "q2": ["p1"]}, 1)
    assert run.latency_ms.keys() == {"q1", "q2"}


def test_all_measures_have_a_column() -> None:
    assert list(MEASURES) == ["nDCG@10", "MRR@10", "Recall@25", "Recall@100"]
