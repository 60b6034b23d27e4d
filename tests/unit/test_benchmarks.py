"""What the benchmarks share."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.beir import read_jsonl, read_qrels
from benchmarks.overload import parsed
from benchmarks.report import Figure, report
from benchmarks.simulate import figures, measured, plot, run

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
