"""A learned blend from judgements to answers: fitted by the job, judged by `shoal eval` and a gate, and served."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import shoal
from jobs.train_blend import NOT_BETTER, app
from shoal.cli.main import app as shoal_app
from shoal.errors import InvalidArgument
from shoal.evaluation.gate import ask, judge, read_gate
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.records import Passage
from shoal.search.blend_model import BlendModel, read_blend
from shoal.settings import BuildSettings, EncoderSettings, LateSettings, LexicalSettings
from tests.support.indexes import publish
from tests.support.local_server import serving_locally

QUERIES = 160
OTHERS = 5
"""Passages with the words of a query apart from each other; in the relevant one they stand side by side."""


def content_and_queries() -> tuple[list[Passage], dict[str, str]]:
    draw = np.random.default_rng(5)
    names = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("an", "ek", "il", "om", "ud") for c in "abdfgklo"]
    content, queries = [], {}
    for number in range(QUERIES):
        words = draw.choice(names, 2, replace=False).tolist()
        queries[f"q{number}"] = " ".join(words)
        for copy in range(OTHERS + 1):
            filler = draw.choice(names, 8).tolist()
            text = [*filler[:4], *words, *filler[4:]] if copy == 0 else [words[1], *filler, words[0]]
            content.append(Passage(f"p{number}-{copy}", " ".join(text)))
    return content, queries


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An index root, and its judged queries: one half in qrels/train.tsv, the other in qrels/test.tsv."""
    folder = tmp_path_factory.mktemp("blend")
    content, queries = content_and_queries()
    late = LateSettings(late_interaction="stored", late_dims=16, late_bits=8)
    publish(folder / "root", "v1", content, encoder="hashing:64", lexical=LexicalSettings(), late=late)
    judged = folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": query, "text": text}) for query, text in queries.items()]
    (judged / "queries.jsonl").write_text("\n".join(lines))
    for split, half in (("train", 0), ("test", 1)):
        rows = [f"q{number}\tp{number}-0\t1" for number in range(half, QUERIES, 2)]
        (judged / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))
    return folder / "root", judged


def train(root: Path, judged: Path, output: Path, *options: str) -> tuple[int, dict[str, Any]]:
    given = ["--index", str(root), "--dataset", str(judged), "--output", str(output), "--top-k", "20", *options]
    result = CliRunner().invoke(app, [*given, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout) if result.exit_code in (0, NOT_BETTER) else {}


@pytest.fixture(scope="module", params=["overlap", "late_interaction"])
def fitted(request: pytest.FixtureRequest, collection: tuple[Path, Path]) -> tuple[Path, str]:
    """A blend that was fitted to one half of the judgements, and over which reranker."""
    root, judged = collection
    output = root.parent / f"{request.param}.json"
    code, said = train(root, judged, output, "--reranker", request.param)
    assert (code, said["written"], said["queries"]) == (0, True, QUERIES // 2)
    assert said["is_sure"]
    assert said["gain"] > 0.02
    return output, request.param


def test_queries_that_took_no_part_gain(collection: tuple[Path, Path], fitted: tuple[Path, str]) -> None:
    root, judged = collection
    path, reranker = fitted
    asked = ["eval", "--index", str(root), "--dataset", str(judged), "--modes", "hybrid", "--top-k", "20"]
    options = ["--reranker", reranker, "--blend", str(path), "--baseline", "hybrid+rerank", "--json"]
    result = CliRunner().invoke(shoal_app, [*asked, *options])
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    rows = {row["name"]: row for row in outcome["rows"]}
    assert list(rows) == ["hybrid", "hybrid+rerank", "hybrid+blend"]
    assert outcome["queries"] == QUERIES // 2
    assert rows["hybrid+blend"]["difference"] > 0.02
    assert rows["hybrid+blend"]["p_value"] < 0.05
    assert rows["hybrid+blend"]["degraded"] == 0


def test_every_way_to_serve_it_gives_the_same_answers(collection: tuple[Path, Path], fitted: tuple[Path, str]) -> None:
    root, _ = collection
    path, reranker = fitted
    _, queries = content_and_queries()
    texts = list(queries.values())[1:20:2]
    with shoal.open(root, reranker=reranker) as index:
        plain = [[each.id for each in index.search(text, top_k=20, top_n=5).results] for text in texts]
    with shoal.open(root, reranker=reranker, blend=str(path)) as index:
        here = [index.search(text, top_k=20, top_n=5) for text in texts]
    assert [[each.id for each in answer.results] for answer in here] != plain
    with serving_locally(root, reranker=reranker, blend=str(path)) as url:
        for text, expected in zip(texts, here, strict=True):
            body = {"query": text, "top_k": 20, "top_n": 5}
            answer = httpx.post(f"{url}/v1/search", json=body).json()
            assert [each["id"] for each in answer["results"]] == [each.id for each in expected.results]
            assert answer["degraded"] is None


def test_the_gate_of_a_build_asks_with_the_blend(collection: tuple[Path, Path], fitted: tuple[Path, str]) -> None:
    root, judged = collection
    path, _ = fitted
    storage = Storage(str(root))
    manifest = versions.current_manifest(storage)
    encoder = EncoderSettings(encoder="hashing:64")

    def measured(*demands: str) -> float:
        gate = read_gate(
            BuildSettings(index=str(root), source="x.jsonl", gate=[f"qrels={judged}", "min_ndcg=0.1", *demands])
        )
        assert gate is not None
        verdict = judge(gate, manifest, lambda: ask(storage, encoder, "v1", gate.dataset, gate.sample, gate.blend))
        assert verdict.passed
        return verdict.measured["ndcg_at_10"]

    assert measured(f"blend={path}") > measured() + 0.02


def test_a_blend_that_does_not_fit_a_new_version_keeps_it_from_being_current(
    collection: tuple[Path, Path], fitted: tuple[Path, str], tmp_path: Path
) -> None:
    root, judged = collection
    path, _ = fitted
    model = read_blend(str(path))
    BlendModel(**{**dict(model), "analyzer": f"sha256:{'0' * 64}"}).write(tmp_path / "other.json")
    demands = [f"qrels={judged}", "min_ndcg=0.1", f"blend={tmp_path / 'other.json'}"]
    gate = read_gate(BuildSettings(index=str(root), source="x.jsonl", gate=demands))
    assert gate is not None
    storage, encoder = Storage(str(root)), EncoderSettings(encoder="hashing:64")
    verdict = judge(
        gate,
        versions.current_manifest(storage),
        lambda: ask(storage, encoder, "v1", gate.dataset, gate.sample, gate.blend),
    )
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["the learned blend does not fit"]


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        (["recall=0.5", "blend=away.json"], "a learned blend is judged by queries"),
        (["min_ndcg=0.5", "blend=away.json"], "cannot be read"),
    ],
)
def test_a_gate_with_a_mistake_is_refused_before_the_build(
    collection: tuple[Path, Path], demands: list[str], message: str
) -> None:
    root, judged = collection
    given = [*([f"qrels={judged}"] if "min_ndcg=0.5" in demands else []), *demands]
    with pytest.raises(InvalidArgument, match=message):
        read_gate(BuildSettings(index=str(root), source="x.jsonl", gate=given))


def test_nothing_is_written_where_no_blend_ranks_better(collection: tuple[Path, Path], tmp_path: Path) -> None:
    """Every query finds its passage first already."""
    root, _ = collection
    content, _ = content_and_queries()
    (tmp_path / "qrels").mkdir()
    lines = [json.dumps({"_id": each.id, "text": each.text}) for each in content[:60]]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    rows = [f"{each.id}\t{each.id}\t1" for each in content[:60]]
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))
    code, said = train(root, tmp_path, tmp_path / "blend.json", "--reranker", "overlap")
    assert (code, said["written"], said["queries"]) == (NOT_BETTER, False, 60)
    assert not (tmp_path / "blend.json").exists()


def test_a_version_without_words_is_refused(tmp_path: Path, collection: tuple[Path, Path]) -> None:
    publish(tmp_path / "root", "v1", [Passage("a", "otter"), Passage("b", "newt")], encoder="hashing:64")
    given = ["--index", str(tmp_path / "root"), "--dataset", str(collection[1]), "--output", str(tmp_path / "b.json")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code != 0
    assert "no lexical index" in " ".join(f"{result.output} {result.exception}".split())
