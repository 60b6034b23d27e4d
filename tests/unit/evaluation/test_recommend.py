"""What ranks best for given queries: variants are ranked as the pipeline ranks them, and the best are told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.encoders import load_encoder
from shoal.errors import InvalidArgument
from shoal.evaluation.asking import LocalAsker, open_asker
from shoal.evaluation.evaluate import evaluate
from shoal.evaluation.recommend import SURE, recommend
from shoal.evaluation.variants import Recorded, Variant, first_stage, ranking, stage_one_variants, stage_two_variants
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.records import Candidate, Passage, Rerank, RowRef
from shoal.rerankers import load_reranker
from shoal.settings import (
    EncoderSettings,
    EvaluateSettings,
    FusionSettings,
    LateSettings,
    LexicalSettings,
    RecommendSettings,
    RerankerSettings,
    ServeSettings,
)
from tests.support.indexes import publish

WORDS = ("otter", "heron", "newt", "snail", "river", "stone", "reed", "mud", "trout", "frog", "pond", "bank", "moss")
COUNT = 60


def text_of(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 5, 7)) + f" n{number}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend") / "root"
    content = [Passage(f"p{number}", text_of(number)) for number in range(COUNT)]
    late = LateSettings(late_interaction="stored", late_dims=16, late_bits=8)
    publish(folder, "v1", content, encoder="hashing:16", lexical=LexicalSettings(), late=late)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries that hold a word which one passage alone has, so that searching by words finds it first."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "qrels").mkdir()
    queries = {f"q{number}": f"n{number} {WORDS[number % 13]} {WORDS[number % 7]}" for number in range(40)}
    lines = [json.dumps({"_id": query, "text": text}) for query, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    judged = [f"q{number}\tp{number}\t1" for number in range(40)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    return folder


@pytest.fixture(scope="module")
def asker(root: Path) -> Iterator[LocalAsker]:
    with open_asker(EvaluateSettings(index=str(root), reranker="overlap")) as opened:
        assert isinstance(opened, LocalAsker)
        yield opened


STAGE_TWO: list[Rerank] = [True, "late"]


@pytest.mark.parametrize("rerank", [False, True, "late"])
def test_a_variant_ranks_as_a_server_with_its_options(root: Path, asker: LocalAsker, rerank: Rerank) -> None:
    query, storage = "n7 otter river moss", Storage(str(root))
    baseline = Variant("hybrid", False, 9, FusionSettings(window=20))
    recorded = Recorded(asker.retrieve(query, "hybrid", 40))
    everything = {c.ref: c for ranked in recorded.rankings.values() for c in ranked}
    for stage in STAGE_TWO:
        scores = asker.score(query, list(everything.values()), stage).tolist()
        recorded.scores[stage] = dict(zip(everything, scores, strict=True))
    first = stage_one_variants(["dense", "lexical", "hybrid"], baseline)
    variants = first[::3] + first[1:2]
    if rerank:
        tried = stage_two_variants([first[1], first[12], first[26]], rerank, baseline, 12)
        variants = tried[:2] + tried[5::9]
    assert {variant.mode for variant in variants} >= {"hybrid", "dense"}
    encoder = load_encoder(EncoderSettings(encoder="hashing:16"))
    overlap = load_reranker(RerankerSettings(reranker="overlap"))
    manifest = versions.current_manifest(storage)
    for variant in variants:
        window = min(variant.options.window, 40)
        options = variant.options.model_copy(update={"window": window})
        variant = Variant(variant.mode, variant.rerank, variant.top_k, options)
        serve = ServeSettings(index=str(root), reranker="overlap", **options.model_dump())
        with LocalAsker(storage, manifest, encoder, overlap, serve, 10_000) as server:
            expected, _ = server.ask(query, variant.mode, rerank, variant.top_k)
        kind = "late" if rerank == "late" else "overlap"
        assert ranking(recorded, variant, kind)[: variant.top_k] == expected, variant


def test_as_many_candidates_are_ordered_as_were_asked_for() -> None:
    cosines = [1.0 - row / 200 for row in range(180)]
    candidates = [
        Candidate(
            f"p{row}",
            cosine,
            row + 1,
            RowRef(0, row),
            scores={"dense": cosine, "lexical": 0.0},
            ranks={"dense": row + 1},
        )
        for row, cosine in enumerate(cosines)
    ]
    recorded = Recorded({"dense": candidates, "lexical": []})
    variant = Variant("hybrid", True, 150, FusionSettings(window=180))
    assert len(first_stage(recorded, variant)) == 150
    # The last of stage one is the best of the reranker.
    recorded.scores[True] = {candidate.ref: float(candidate.rank) for candidate in candidates}
    assert ranking(recorded, variant, "overlap")[0] == "p149"


def test_what_is_surely_better_is_told_with_its_options(root: Path, dataset: Path) -> None:
    settings = RecommendSettings(
        dataset=str(dataset), index=str(root), reranker="overlap", lexical_weight=0.0, rerank="no"
    )
    outcome = recommend(settings)
    (choice,) = outcome.choices
    assert choice.is_sure
    assert choice.p_value < SURE
    assert choice.after > choice.before
    assert choice.held_out > 0
    assert (choice.stage, choice.rerank, outcome.queries, outcome.are_made) == ("stage one", False, 40, False)
    # The options, given to an evaluation, bring what was promised.
    options = {name: value for name, value in choice.values.items() if name != "mode"}
    again = evaluate(
        EvaluateSettings(dataset=str(dataset), index=str(root), rerank="no", modes=[choice.values["mode"]], **options)
    )
    assert again.rows[0].values["nDCG@10"] == pytest.approx(choice.after)
    assert choice.arguments[:2] == ["--reranker", "none"]
    assert ("--mode" in choice.arguments) == (choice.values["mode"] != "hybrid")


def test_without_a_sure_gain_a_server_stays_as_it_is(root: Path, dataset: Path) -> None:
    settings = RecommendSettings(dataset=str(dataset), index=str(root), reranker="overlap", queries=2, top_k=12)
    outcome = recommend(settings)
    assert [choice.stage for choice in outcome.choices] == ["stage one", "reranked"]
    assert not any(choice.is_sure for choice in outcome.choices)
    assert outcome.choices[1].arguments == ["--reranker", "overlap", "--top-k", "12"]


def test_queries_are_made_where_there_are_none(root: Path) -> None:
    arguments = ["eval", "--index", str(root), "--rerank", "late", "--recommend", "--sample-judgements", "12"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "known items, 12 queries, made from passages" in shown.output
    assert "serve: shoal serve --index ROOT" in shown.output
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [choice["stage"] for choice in answer["choices"]] == ["stage one", "stored tokens"]
    assert answer["winner"] in ("stage one", "stored tokens")
    assert answer["made_from_passages"]


def test_each_query_is_shown_by_itself(root: Path, dataset: Path, tmp_path: Path) -> None:
    options = {"dataset": str(dataset), "index": str(root), "reranker": "overlap", "modes": ["dense", "lexical"]}
    lines, table = tmp_path / "queries.jsonl", tmp_path / "queries.tsv"
    outcome = evaluate(EvaluateSettings(**options, queries=3, per_query=str(lines)))
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    names = ["dense", "dense+rerank", "lexical", "lexical+rerank"]
    assert [row["row"] for row in rows] == names * 3
    assert {row["query"]: row["nDCG@10"] for row in rows if row["row"] == "dense"} == outcome.rows[0].by_query
    for row in rows:
        assert row["MRR@10"] == (1 / row["first_relevant"] if (row["first_relevant"] or 11) <= 10 else 0)
        assert row["relevant"] == 1
        assert row["ms"] > 0
        assert row["text"] == outcome.dataset.queries[row["query"]]
    evaluate(EvaluateSettings(**options, queries=3, rerank="no", per_query=str(table)))
    head, *cells = [line.split("\t") for line in table.read_text().splitlines()]
    assert head == list(rows[0])
    assert len(cells) == 6
    with pytest.raises(InvalidArgument, match="cannot be written"):
        evaluate(EvaluateSettings(**options, queries=1, per_query=str(tmp_path)))


def test_options_of_ranking_decide_an_evaluation(root: Path, dataset: Path) -> None:
    options = {"dataset": str(dataset), "index": str(root), "rerank": "no", "modes": ["hybrid", "lexical", "dense"]}
    by_words = evaluate(EvaluateSettings(**options, lexical_weight=1.0))
    assert by_words.rows[0].by_query == by_words.rows[1].by_query
    assert by_words.settings["lexical_weight"] == 1.0
    by_vectors = evaluate(EvaluateSettings(**options, lexical_weight=0.0))
    assert by_vectors.rows[0].by_query == by_vectors.rows[2].by_query


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://b", "dataset": "x", "fusion": "rrf"}, "fusion is an option of the server"),
        ({"url": "http://b"}, "give --dataset DIR, or --index"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(settings: dict[str, str], message: str, dataset: Path) -> None:
    if "dataset" in settings:
        settings = settings | {"dataset": str(dataset)}
    with pytest.raises(InvalidArgument, match=message):
        evaluate(EvaluateSettings(**settings))


def test_recommending_needs_an_index_here(dataset: Path, root: Path) -> None:
    with pytest.raises(InvalidArgument, match="give --index ROOT alone"):
        recommend(RecommendSettings(dataset=str(dataset), url="http://b", recommend=True))
    with pytest.raises(InvalidArgument, match="leave shortlist out"):
        recommend(RecommendSettings(dataset=str(dataset), index=str(root), shortlist=3))
