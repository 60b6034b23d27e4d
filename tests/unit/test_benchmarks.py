"""What the benchmarks share."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import scale
from benchmarks.overload import parsed
from benchmarks.simulate import figures, measured, plot, run
from benchmarks.support.beir import read_jsonl, read_qrels
from benchmarks.support.report import Figure, report
from shoal.capacity.synthetic import DIM, Centres

ROWS = [{"_id": "1", "text": "naïve"}, {"_id": "2", "text": "b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("asked", ["corpus.jsonl", "corpus.jsonl.gz"])
@pytest.mark.parametrize("stored", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_data_sets_may_be_gzipped_or_plain(asked: str, stored: str, tmp_path: Path) -> None:
    (tmp_path / stored).write_bytes(gzip.compress(LINES) if stored.endswith(".gz") else LINES)
    assert read_jsonl(tmp_path / asked) == ROWS


def test_judgements(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t2\n")
    [judgement] = read_qrels(tmp_path / "test.tsv")
    assert (judgement.query_id, judgement.doc_id, judgement.relevance) == ("q", "d", 2)


@pytest.mark.parametrize("read", [read_jsonl, read_qrels])
def test_a_data_set_that_is_not_there_is_named_with_the_remedy(read: object, tmp_path: Path) -> None:
    assert callable(read)
    with pytest.raises(SystemExit, match=r"there is no .*/nowhere; .*--dataset DIR"):
        read(tmp_path / "nowhere")


def test_a_missed_goal_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Figure("good", 1.0, "s", "<= 2", True), Figure("bad", 3.0, "s", "<= 2", False)
    report("title", [good, Figure("free", 5.0, "s")])
    with pytest.raises(SystemExit) as caught:
        report("title", [good, bad], tmp_path / "out.json")
    assert caught.value.code == 1
    assert "NO" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["bad"] == {
        "value": 3.0, "goal": "<= 2", "met": False, "unit": "s"
    }  # fmt: skip


def test_the_simulated_fan_out_shows_what_second_attempts_and_suspension_are_for(tmp_path: Path) -> None:
    file = tmp_path / "ms"
    file.write_text("\n".join(str(ms) for ms in [4.0] * 90 + [5.0, 6, 7, 8, 9, 10, 12, 14, 16, 20]))
    latencies = measured(file)
    outcomes = {
        scenario: {4: run(scenario, 4, 120, latencies)} for scenario in ("plain", "hedged", "hung", "silent", "waiting")
    }
    plain, hedged, hung, silent, waiting = (by_width[4] for by_width in outcomes.values())
    assert (plain.extra, plain.coverage, hedged.coverage, hung.coverage) == (0, 1, 1, 1)
    assert 0 < hedged.extra < 0.06
    assert hedged.p99 < plain.p99
    assert silent.coverage == waiting.coverage == pytest.approx(1 - 0.5 / 4)
    assert silent.p50 < 100 < waiting.p99
    assert waiting.p99 == pytest.approx(7000, abs=10)  # retrieve_share of the deadline
    assert any(figure.name == "hung, 4 shards: extra calls" for figure in figures(outcomes))
    plot(outcomes, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_load_generator_prints_is_read_by_kind() -> None:
    load = parsed(
        ["4.0", "1", "200:100:3", "200:300:1", "429:5:6", "degraded:200:2", "ended:0:1", "ended:15:2", "ended:20:3"]
    )
    assert (load.seconds, load.lost, load.count(), load.count("200", "degraded")) == (4.0, 1, 12, 6)
    assert [load.percentile(percent, "200", "degraded") for percent in (50, 80, 99)] == pytest.approx([10, 20, 30])
    assert load.percentile(99, "503") == 0
    assert load.until(2.5) == pytest.approx(0.1)  # five of them end between then and two seconds later
    assert load.until(10) == float("inf")


def test_the_corpus_of_the_scale_benchmark_comes_with_its_exact_answers(tmp_path: Path) -> None:
    centres = Centres(np.random.default_rng(1))
    vectors = np.concatenate(list(scale.blocks(centres, scale.BLOCK + 500)))
    queries = centres.around(np.arange(3), np.random.default_rng(9))
    nearest = scale.write_corpus(tmp_path / "corpus.parquet", scale.blocks(centres, len(vectors)), queries)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, : scale.TOP_K]
    assert nearest == [{f"p{row}" for row in line} for line in best.tolist()]
    table = pq.read_table(tmp_path / "corpus.parquet")
    assert table.column("id").to_pylist() == [f"p{row}" for row in range(len(vectors))]
    np.testing.assert_array_equal(
        table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, DIM), vectors
    )


def test_the_scale_benchmark_holds_every_size_against_its_goals(tmp_path: Path) -> None:
    def outcome(shards: int, memory: float, slower: float, recall: float) -> scale.Outcome:
        peaks, ms = {"embedding worker": 250.0, "task worker": memory}, np.full(9, 2.0)
        return scale.Outcome("ivf_sq8", "nprobe=4", shards, 10**9, 60.0, peaks, 3 * ms, slower * ms, ms, recall, recall)

    outcomes = {
        100_000: outcome(1, 300, 1.1, 0.96),
        1_000_000: outcome(1, 900, 1.3, 0.94),
        10_000_000: outcome(10, 1000, 1.0, 0.97),
    }
    met = {figure.name: figure.met for figure in scale.figures(outcomes)}
    assert met["100,000: vector search over bare FAISS"]
    assert met["1,000,000: vector search over bare FAISS"] is False
    assert met["1,000,000: recall@10, ivf_sq8 nprobe=4"] is False
    assert met["100,000 to 1,000,000: growth, task worker"] is None  # one shard, ten times as large
    assert met["1,000,000 to 10,000,000: growth, task worker"]
    scale.plot(outcomes, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
