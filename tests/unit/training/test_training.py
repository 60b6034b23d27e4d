"""Judgements, hard negatives, steps and checkpoints of a training; no model is loaded here."""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.progress import Reporter
from jobs.train_reranker import app
from shoal.encoders import load_encoder
from shoal.errors import Conflict, InvalidArgument, NotFound
from shoal.inference import models
from shoal.lexical.analyzer import Analyzer
from shoal.settings import AnalyzerSettings, EncoderSettings, TrainSettings
from shoal.training import batches, judgements, mining
from shoal.training.evaluation import ndcg
from shoal.training.judgements import Judgement, Judgements
from shoal.training.mining import Example, Examples, Held
from shoal.training.progress import Progress
from shoal.training.training_run import RESULT, plan_training


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def beir(folder: Path, *train: str) -> Path:
    write(folder / "corpus.jsonl.gz", {"_id": "p1", "title": "Otters", "text": "swim"}, {"_id": "p2", "text": "herons"})
    write(folder / "queries.jsonl", {"_id": "q1", "text": "who swims"}, {"_id": "q2", "text": "who flies"})
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore", *train)
    return folder


class TestJudgements:
    def test_pairs_of_one_query_are_joined(self, tmp_path: Path) -> None:
        write(
            tmp_path / "a.jsonl", {"query": "q", "positive": "one", "negatives": ["no", "two"], "title": "unused"}, ""
        )
        write(tmp_path / "b.jsonl.gz", {"query": "q", "positive": ["two", "one"]}, {"query": "r", "positive": "two"})
        read = judgements.read(tmp_path, dev_share=0, dev_queries=9, seed=0)
        assert read.passages == ["one", "no", "two"]
        assert read.train == [Judgement("q", [0, 2], [1]), Judgement("r", [2], [])]
        assert read.dev == []

    def test_a_beir_folder_is_read_with_its_titles_and_grades(self, tmp_path: Path) -> None:
        beir(tmp_path, "q1\tp1\t2", "q1\tp2\t0", "q2\tp1\t0")
        read = judgements.read(tmp_path, dev_share=0, dev_queries=9, seed=0)
        assert read.passages == ["Otters swim", "herons"]
        assert read.train == [Judgement("who swims", [0], [1])]
        write(tmp_path / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "q2\tp2\t1")
        assert judgements.read(tmp_path, 0, 9, 0).dev == [Judgement("who flies", [1], [])]

    def test_the_same_queries_are_held_out_by_the_same_seed(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", *({"query": f"q{n}", "positive": f"p{n}"} for n in range(40)))
        first = judgements.read(tmp_path, 0.25, 100, seed=1)
        assert (len(first.train), len(first.dev)) == (30, 10)
        assert first == judgements.read(tmp_path, 0.25, 100, seed=1)
        assert first.dev != judgements.read(tmp_path, 0.25, 100, seed=2).dev
        assert len(judgements.read(tmp_path, 0.25, 4, seed=1).dev) == 4

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("nonsense", r"a\.jsonl:2: not a JSON object"),
            ("[1]", r"a\.jsonl:2: not a JSON object"),
            ('{"query": "q"}', r"a\.jsonl:2: the field 'positive'"),
            ('{"query": " ", "positive": "p"}', r"a\.jsonl:2: the field 'query'"),
            ('{"query": "q", "positive": "p", "negatives": [1]}', r"a\.jsonl:2: the field 'negatives'"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: str, problem: str) -> None:
        write(tmp_path / "a.jsonl", {"query": "q", "positive": "p"}, line)
        with pytest.raises(InvalidArgument, match=problem):
            judgements.read(tmp_path, 0, 9, 0)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [("q9\tp1\t1", "train.tsv:2: there is no query 'q9'"), ("q1\tp9\t1", "no passage 'p9'"), ("q1\tp1", "whole")],
    )
    def test_a_bad_grade_is_named(self, tmp_path: Path, line: str, problem: str) -> None:
        with pytest.raises(InvalidArgument, match=problem):
            judgements.read(beir(tmp_path, line), 0, 9, 0)

    def test_a_folder_without_judgements_says_what_belongs_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"put \*\.jsonl"):
            judgements.digest(tmp_path)
        with pytest.raises(InvalidArgument, match="add positives"):
            judgements.read(beir(tmp_path, "q1\tp1\t0"), 0, 9, 0)

    def test_the_digest_follows_the_content(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", {"query": "q", "positive": "p"})
        first = judgements.digest(tmp_path)
        write(tmp_path / "notes.txt", "not read")
        assert judgements.digest(tmp_path) == first
        write(tmp_path / "a.jsonl", {"query": "q", "positive": "r"})
        assert judgements.digest(tmp_path) != first


ANALYZER = Analyzer(AnalyzerSettings())
OTTERS = [
    "otters swim in cold rivers and eat fish",
    "Otters swim in cold rivers and eat fish, too",
    "otters swim in warm seas",
    "herons stand in rivers and eat fish",
    "a treatise on medieval law",
    "otters",
]


class TestMining:
    def mined(self, **options: Any) -> Examples:
        found = Judgements(OTTERS, [Judgement("otters swim in rivers", [0], options.pop("negatives", []))], [])
        return mining.mine(found, load_encoder(EncoderSettings(encoder="hashing:256")), ANALYZER, top_k=6, dev_top_k=3)

    def test_what_repeats_a_positive_is_no_negative(self) -> None:
        examples = self.mined()
        (example,) = examples.train
        assert [examples.passages[row] for row in example.positives] == OTTERS[:1]
        # "otters" alone is part of the positive, and the second passage says the same.
        assert {examples.passages[row] for row in example.mined} == set(OTTERS[2:5])
        assert examples.passages[example.mined[-1]] == OTTERS[4]

    def test_given_negatives_are_kept_whatever_they_say(self) -> None:
        examples = self.mined(negatives=[1])
        assert [examples.passages[row] for row in examples.train[0].given] == OTTERS[1:2]
        assert OTTERS[1] not in {examples.passages[row] for row in examples.train[0].mined}

    def test_lexical_search_finds_the_rare_word(self) -> None:
        found = mining._lexical(["medieval", "heron"], OTTERS, 2, ANALYZER)
        assert found[:, 0].tolist() == [4, 3]

    def test_held_out_queries_get_what_the_first_stage_finds(self, tmp_path: Path) -> None:
        found = Judgements(OTTERS, [Judgement("a", [0], [1])], [Judgement("medieval law", [4], [])])
        examples = mining.mine(found, load_encoder(EncoderSettings(encoder="hashing:256")), ANALYZER, 2, 3)
        (held,) = examples.dev
        assert len(held.candidates) == 3
        assert examples.passages[held.candidates[0]] == OTTERS[4]
        examples.save(tmp_path / "examples.json")
        assert Examples.load(tmp_path / "examples.json") == examples


counts = st.integers(1, 40)


class TestBatches:
    @staticmethod
    def examples(count: int) -> Examples:
        train = [Example(f"q{n}", [n], [n + count], [n + 2 * count, n + 3 * count]) for n in range(count)]
        return Examples([f"p{n}" for n in range(4 * count)], train, [])

    @given(count=counts, size=counts, epoch=st.integers(0, 3), seed=st.integers(0, 9))
    def test_every_query_is_seen_once_in_an_epoch(self, count: int, size: int, epoch: int, seed: int) -> None:
        examples = self.examples(count)
        steps = batches.steps_per_epoch(examples, size)
        shown = [
            batches.listings(examples, epoch * steps + step, batch_queries=size, negatives=2, seed=seed)
            for step in range(steps)
        ]
        assert sorted(listing.query for found in shown for listing in found) == sorted(f"q{n}" for n in range(count))
        assert shown[0] == batches.listings(examples, epoch * steps, batch_queries=size, negatives=2, seed=seed)
        for listing in shown[0]:
            number = int(listing.query[1:])
            assert listing.rows[:2] == [number, number + count]  # the positive, and the negative that was given
            assert len(set(listing.rows)) == 3
            assert [f"p{row}" for row in listing.rows] == listing.passages

    @given(count=counts, tokens=st.integers(1, 2000))
    def test_groups_divide_a_step(self, count: int, tokens: int) -> None:
        found = batches.listings(self.examples(count), 0, batch_queries=count, negatives=2, seed=0)
        groups = list(batches.groups(found, max_length=10, batch_tokens=tokens))
        assert sorted(listing.query for group in groups for listing in group) == sorted(x.query for x in found)
        assert all(len(group) == 1 or len(group) * 3 * 10 <= tokens for group in groups)


def test_ndcg_is_that_of_the_formula() -> None:
    held = [Held("a", [1, 2, 3], [2]), Held("b", [4, 5], [9])]
    assert ndcg([(held[0], [0.1, 0.5, 0.9]), (held[1], [1.0, 0.0])]) == pytest.approx(0.5 / math.log2(3))


class TestCourse:
    def settings(self, folder: Path, **options: Any) -> TrainSettings:
        if not folder.exists():
            write(folder / "data" / "a.jsonl", {"query": "q", "positive": "otter", "negatives": ["heron"]})
        return TrainSettings(data=str(folder / "data"), output=str(folder / "out"), encoder="hashing:16", **options)

    def test_another_training_does_not_go_on_where_this_one_stopped(self, tmp_path: Path) -> None:
        folder = tmp_path / "t"
        plan_training(self.settings(folder)).begin()
        plan_training(self.settings(folder, threads=3, workers=2)).begin()  # a matter of speed only
        with pytest.raises(Conflict, match="unfinished training with other settings"):
            plan_training(self.settings(folder, seed=1)).begin()
        write(folder / "data" / "a.jsonl", {"query": "q", "positive": "fish", "negatives": ["heron"]})
        with pytest.raises(Conflict, match="unfinished training with other settings or data"):
            plan_training(self.settings(folder)).begin()

    def test_two_processes_do_not_train_in_one_folder(self, tmp_path: Path) -> None:
        run = plan_training(self.settings(tmp_path / "t"))
        run.begin()
        with run.alone(), pytest.raises(Conflict, match="another process is training"), run.alone():
            pass
        with run.alone():
            pass

    def test_examples_are_mined_once(self, tmp_path: Path) -> None:
        run = plan_training(self.settings(tmp_path / "t"))
        run.begin()
        first = run.examples(threads=1)
        (run.work / "examples.json").write_text(json.dumps({"passages": [], "train": [], "dev": []}))
        assert first == Examples(["otter", "heron"], [Example("q", [0], [1], [])], [])
        assert run.examples(threads=1) == Examples([], [], [])

    def test_the_result_appears_whole_and_is_known_again(self, tmp_path: Path) -> None:
        run = plan_training(self.settings(tmp_path / "t"))
        assert run.finished() is None
        run.begin()
        write(run.work / RESULT / models.TRAINED, {"plan": run.plan, "kind": "late_interaction"})
        assert run.publish()["kind"] == "late_interaction"
        assert not run.work.exists()
        assert plan_training(self.settings(tmp_path / "t")).finished() == {
            "plan": run.plan,
            "kind": "late_interaction",
        }
        assert models.trained_kind(str(run.output)) == "late_interaction"
        with pytest.raises(Conflict, match="name another --output"):
            plan_training(self.settings(tmp_path / "t", seed=1)).finished()

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="there is no folder"):
            plan_training(TrainSettings(data=str(tmp_path / "none"), output=str(tmp_path / "out")))


def test_a_log_tells_loss_and_ndcg() -> None:
    log = io.StringIO()
    times = iter(range(0, 1000, 10))
    reporter = Reporter(Console(file=log, width=200), clock=lambda: float(next(times)))
    with reporter.following("train") as follow:
        follow(Progress(step=41, steps=100, loss=0.5, ndcg=None))
        follow(Progress(step=42, steps=100, loss=0.25, ndcg=0.75))
    lines = log.getvalue().splitlines()
    assert lines[0].startswith("train: 41 of 100 steps, loss 0.5000, ")
    assert lines[1].startswith("train: 42 of 100 steps, loss 0.2500, nDCG@10 0.7500, ")
    assert "seconds" not in log.getvalue()
    assert reporter.seconds["train"] > 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "--data (or SHOAL_DATA) is required"),
        (["--data=/no/such/folder", "--output=/tmp/x"], "there is no folder /no/such/folder"),
        (["--data=.", "--output=/tmp/x", "--negatives=0"], "--negatives: input should be greater than or equal to 1"),
    ],
)
def test_a_mistyped_command_is_told_at_once(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOAL_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        app(options)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
