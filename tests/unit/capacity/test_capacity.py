"""The capacity planner: its formulas against outside references, its properties, its command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from shoal.capacity.constants import Constants, KindCost, Point
from shoal.capacity.planner import plan, sizes
from shoal.cli.main import app
from shoal.errors import InvalidArgument
from shoal.indexes import index_kind
from shoal.indexes._auto import choose
from shoal.records import Passage
from shoal.settings import CapacitySettings, IndexSettings
from shoal.shard.passages import to_batch
from shoal.shard.writer import write_shard

CONSTANTS = Constants(
    machine="a machine", measured_at="2026-11-28T17:00:00+00:00", device="cpu", encoder="all-MiniLM-L6-v2",
    encoder_dim=384, encode_bytes_per_s=20_000, query_ms=4, query_p99_ms=6,
    reranker="late_interaction", rerank_bytes_per_s=20_000, search_dim=384, search_us=20, exact_us=0.1,
    kinds={
        "flat": KindCost(row_us=0.1, points=[Point(recall=1, share=1, refine=0)]),
        "ivf_sq8": KindCost(
            row_us=0.03, points=[Point(recall=0.9, share=0.004, refine=1), Point(recall=0.99, share=0.02, refine=2)]
        ),
        "ivf_pq": KindCost(row_us=0.02, points=[Point(recall=0.96, share=0.01, refine=8)]),
        "rabitq": KindCost(row_us=0.01, points=[Point(recall=0.96, share=0.01, refine=16)]),
    },
    lexical_us=0.06, index_us=300, read_us=80, answer_ms=5, answer_p99_ms=8, hop_ms=3, call_ms=0.4,
    tail=[(0, 0.7), (0.5, 1), (0.9, 1.4), (0.98, 2.0), (0.99, 2.3), (0.997, 3)], process_bytes=300 * 2**20,
)  # fmt: skip


def settings(passages: float = 1e6, **others: Any) -> CapacitySettings:
    return CapacitySettings(passages=passages, **others)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivf_sq8", "ivf_pq", "rabitq"])
def test_sizes_are_those_of_files(kind: str, tmp_path: Path) -> None:
    dim, text = 16, "x" * 10
    vectors = np.random.default_rng(1).standard_normal((8192, dim), dtype=np.float32)
    trained = index_kind(kind).train(vectors[:1000], IndexSettings(index_kind=kind), 1)
    written = []
    for count in (4096, 8192):
        batch = to_batch([Passage(f"passage-{number:08}", text) for number in range(count)])
        folder, blocks = tmp_path / str(count), [(batch, vectors[:count])]
        entry = write_shard(folder, blocks, shard=0, dim=dim, kind=kind, trained=trained, threads=1)
        written.append(sum(file.bytes for file in entry.files))
    each = (written[1] - written[0]) / 4096
    assert sizes(kind, dim, len(text), lexical=False).stored == pytest.approx(each, rel=0.05)


def test_the_kind_is_the_one_that_a_build_chooses() -> None:
    for passages in (1e4, 1e6, 3e7, 1e9):
        outcome = plan(settings(passages), CONSTANTS)
        assert outcome.kind == choose(int(passages), outcome.shards, 384, 8 * 2**30)


def test_a_plan_adds_up() -> None:
    outcome = plan(settings(1e9, dim=1024, qps=200, p99_ms=2000, rerank_top_k=25, index_memory_gib=500), CONSTANTS)
    assert outcome.kind == "ivf_pq"
    assert outcome.latency_met
    assert outcome.nodes == outcome.nodes_per_copy * outcome.copies
    assert outcome.shards * outcome.shard_passages >= 1e9
    per_node = outcome.shards / outcome.nodes_per_copy
    assert per_node <= 16
    assert outcome.memory_bytes / outcome.nodes_per_copy <= 0.8 * 64 * 2**30
    # A retriever searches with one core, and a node has one for each of its own.
    assert 200 * (outcome.search_ms + 2 * 3) / 1000 <= 0.6 * outcome.replicas  # one hop to search, one for texts
    assert outcome.replicas * outcome.shards <= 16 * outcome.nodes
    assert outcome.embed_hours == pytest.approx(1e9 * 600 / 20_000 / 3600)
    # 264 bytes of codes, 420 of words, in memory twice; 2048 of exact vectors, 644 of texts more; 644 and 4096 staged.
    index, process = 1e9 * 684 + outcome.shards * 2048 * 4096, outcome.shards * 300 * 2**20
    assert outcome.memory_bytes == pytest.approx(2 * index + process, rel=1e-6)
    memory = outcome.copies * 2 * index + outcome.replicas * process
    assert outcome.total_memory_bytes == pytest.approx(memory, rel=1e-6)
    assert memory / outcome.nodes <= 0.8 * 64 * 2**30
    assert outcome.disk_bytes == pytest.approx(1e9 * (684 + 2048 + 644) + outcome.shards * 2048 * 4096, rel=1e-6)
    assert outcome.build_disk_bytes - outcome.disk_bytes == pytest.approx(1e9 * (644 + 4096), rel=1e-6)
    assert sum(outcome.p99.model_dump().values()) == pytest.approx(outcome.p99.total)
    assert outcome.median_ms < outcome.p99_ms < outcome.p99.total
    p99 = outcome.p99
    assert (p99.answer, p99.encode) == (8, 6)
    # Without words the texts come with the hits, in the one call that is made.
    assert p99.fetch > 3
    dense = plan(settings(1e9, dim=1024, qps=200, p99_ms=2000, index_memory_gib=500, lexical=False), CONSTANTS)
    assert dense.p99.fetch == 0


def test_what_cannot_be_met_is_said_with_the_nearest() -> None:
    nearest = plan(settings(1e8, p99_ms=1), CONSTANTS)
    assert not nearest.latency_met
    assert all(plan(settings(1e8, shards=n), CONSTANTS).p99_ms >= nearest.p99_ms for n in (3, 10, 40, 150, 1000))
    assert plan(settings(1e8, p99_ms=nearest.p99_ms), CONSTANTS).latency_met
    assert not plan(settings(1e6, recall=0.999, index_kind="ivf_sq8"), CONSTANTS).recall_met
    assert plan(settings(1e6, recall=0.99, index_kind="ivf_sq8"), CONSTANTS).recall_met


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": None}, "--passages is required"),
        ({"passages": 1e9, "node_memory_gib": 0.1}, "no shard fits a node"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        plan(CapacitySettings(**options), CONSTANTS)


# Of one machine on one morning: what `benchmarks.scale --full` measured, and what `shoal plan --calibrate` then kept.
MEASURED = json.loads((Path(__file__).parent / "capacity_measured.json").read_text())


@pytest.mark.parametrize("point", MEASURED["measured"], ids=lambda point: f"{point['passages']:,}")
def test_the_model_tells_what_was_measured(point: dict[str, Any]) -> None:
    said = plan(
        settings(
            point["passages"], passage_bytes=7, lexical=False, top_k=10, shards=point["shards"], all_in_memory=True
        ),
        Constants.model_validate(MEASURED["constants"]),
    )
    assert said.kind == point["kind"]
    assert said.disk_bytes == pytest.approx(2**20 * point["files_mib"], rel=0.02)
    assert said.search.recall == pytest.approx(point["recall"], abs=0.04)
    # A shard larger than those it was calibrated with is searched faster than the model tells.
    assert 0.9 <= said.search_ms / point["search_ms"] <= 1.7


SIZES = st.floats(1, 1e9)
KINDS = st.sampled_from(["flat", "ivf_sq8", "ivf_pq", "rabitq"])


@given(SIZES, st.floats(1, 100), KINDS, st.floats(20, 5000))
def test_more_passages_never_take_less(passages: float, times: float, kind: Any, p99_ms: float) -> None:
    # Of one kind: where `auto` goes over to a smaller one, memory falls.
    few, many = (
        plan(settings(count, index_kind=kind, p99_ms=p99_ms, node_memory_gib=1000), CONSTANTS)
        for count in (passages, passages * times)
    )
    assume(many.latency_met)
    assert few.latency_met
    assert few.shards <= many.shards
    assert few.memory_bytes <= many.memory_bytes
    assert few.disk_bytes <= many.disk_bytes
    assert few.embed_hours <= many.embed_hours


@given(SIZES, st.floats(0.1, 1e5), st.floats(1, 100))
def test_more_queries_never_take_fewer_replicas(passages: float, qps: float, times: float) -> None:
    few, many = (plan(settings(passages, qps=rate), CONSTANTS) for rate in (qps, qps * times))
    assert few.shards == many.shards
    assert few.replicas <= many.replicas
    assert few.encoder_replicas <= many.encoder_replicas
    assert few.ingress_replicas <= many.ingress_replicas


@given(SIZES, st.floats(1, 1000), st.floats(1, 100), KINDS)
def test_more_time_never_takes_more_shards(passages: float, p99_ms: float, times: float, kind: Any) -> None:
    options = {"index_kind": kind, "node_memory_gib": 1000}
    hasty, patient = (plan(settings(passages, p99_ms=ms, **options), CONSTANTS) for ms in (p99_ms, p99_ms * times))
    assert hasty.shards >= patient.shards
    assert patient.latency_met or not hasty.latency_met


@given(SIZES, st.floats(0.5, 1), st.floats(0.5, 1), st.integers(1, 100))
def test_more_recall_never_takes_less_time(passages: float, one: float, other: float, shards: int) -> None:
    low, high = (
        plan(settings(passages, recall=recall, shards=shards, index_kind="ivf_sq8", node_memory_gib=1e4), CONSTANTS)
        for recall in sorted((one, other))
    )
    assert low.search_ms <= high.search_ms


@given(SIZES, st.integers(1, 1000))
def test_second_attempts_never_make_it_slower(passages: float, shards: int) -> None:
    options: dict[str, Any] = {"shards": shards, "node_memory_gib": 1e4}
    alone, hedged = (plan(settings(passages, min_replicas=copies, **options), CONSTANTS) for copies in (1, 2))
    assert hedged.p99_ms <= alone.p99_ms
    if alone.replicas == 1:
        assert alone.p99_ms == pytest.approx(alone.p99.total)


def test_replicas_that_the_load_needs_make_second_attempts_too() -> None:
    idle, busy = (plan(settings(1e6, shards=8, min_replicas=1, qps=qps), CONSTANTS) for qps in (1, 5000))
    assert (idle.replicas, busy.replicas > 1) == (1, True)
    assert busy.p99_ms < busy.p99.total == pytest.approx(idle.p99_ms)


def test_replicas_of_a_shard_share_a_node_as_far_as_its_cores_and_memory_go() -> None:
    options: dict[str, Any] = {"shards": 3, "min_replicas": 1, "qps": 2000}
    roomy = plan(settings(1e6, node_cores=16, node_memory_gib=64, **options), CONSTANTS)
    assert roomy.nodes == roomy.copies == -(-roomy.replicas // 5)
    # 3 shards of 0.5 GiB in two versions, and 0.3 GiB for each retriever: two of a shard in 3.6 GiB.
    small = plan(settings(1e6, node_cores=16, node_memory_gib=4.5, **options), CONSTANTS)
    assert small.copies == -(-small.replicas // 2)
    assert small.replicas > small.copies > roomy.copies
    assert small.total_memory_bytes <= 0.8 * 4.5 * 2**30 * small.nodes


def test_hybrid_queries_read_the_vectors_of_what_words_found() -> None:
    options: dict[str, Any] = {"index_kind": "ivf_sq8", "shards": 1, "recall": 0.99}
    free = CONSTANTS.model_copy(update={"lexical_us": 1e-12})
    dense, hybrid = (plan(settings(1e6, lexical=lexical, **options), free).search_ms for lexical in (False, True))
    # refine 2: by vectors 2 * 25 of them, for a hybrid query 2 * 100, and the 100 that words found; 80.1 us each.
    assert hybrid - dense == pytest.approx((300 - 50) * 0.0801, rel=1e-6)


def test_room_for_a_swap_is_planned() -> None:
    options: dict[str, Any] = {"index_kind": "ivf_sq8", "shards": 64, "qps": 1}
    still, swapped = (plan(settings(5e8, versions_in_memory=count, **options), CONSTANTS) for count in (1, 2))
    assert swapped.nodes > still.nodes
    process = 64 * 300 * 2**20
    assert swapped.memory_bytes - process == pytest.approx(2 * (still.memory_bytes - process), rel=1e-9)
    assert swapped.disk_bytes == still.disk_bytes


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "120", "TERM": "dumb"})


@pytest.fixture
def constants(tmp_path: Path) -> str:
    path = tmp_path / "capacity.json"
    path.write_text(CONSTANTS.model_dump_json())
    return str(path)


def test_the_command_shows_a_table(constants: str) -> None:
    result = run("--passages", "1e9", "--dim", "1024", "--qps", "200", "--p99-ms", "2000", "--constants", constants)
    assert result.exit_code == 0, result.output
    outcome = plan(settings(1e9, dim=1024, qps=200, p99_ms=2000), CONSTANTS)
    assert f"{outcome.shards:,} of" in result.stdout
    assert f"--retriever-replicas {outcome.replicas}" in result.stdout
    assert "a machine, 2026-11-28" in " ".join(result.stdout.split())  # wrapped where the path of the file is long
    assert "not 1024" in result.stdout
    assert "NOT MET" not in result.stdout


def test_the_command_says_what_cannot_be_met_and_exits_with_3(constants: str) -> None:
    result = run("--passages", "1e8", "--p99-ms", "1", "--recall", "0.999", "--constants", constants, "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert [line.split(" ")[0] for line in answer["missed"]] == ["recall", "p99"]
    assert f"the nearest is {answer['p99_ms']:.0f} ms" in answer["missed"][1]
    assert run("--passages", "1e8", "--p99-ms", "1", "--constants", constants).stdout.count("NOT MET") == 1


def test_constants_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "capacity.json").write_text('{"machine": "x"}')
    for name in ("capacity.json", "nowhere.json"):
        result = run("--passages", "1e6", "--constants", str(tmp_path / name))
        assert result.exit_code == 2
        assert name in result.stderr.replace("\n", "")
        assert "--calibrate" in result.stderr


def test_without_constants_of_this_machine_those_of_a_named_one_are_taken_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Constants.shipped() == Constants.model_validate(MEASURED["constants"])
    shown = run("--passages", "1e6", "--p99-ms", "2000")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    assert (
        "Nothing was measured here: times are those of another machine (Intel(R) Xeon(R) Processor, 2 cores, 24 GiB)"
        in text
    )
    assert "shoal plan --calibrate" in text
    answer = json.loads(run("--passages", "1e6", "--p99-ms", "2000", "--json").stdout)
    assert (answer["constants"]["shipped"], answer["constants"]["machine"]) == (True, MEASURED["constants"]["machine"])
    (tmp_path / ".config" / "shoal").mkdir(parents=True)
    (tmp_path / ".config" / "shoal" / "capacity.json").write_text(CONSTANTS.model_dump_json())
    assert "Nothing was measured here" not in run("--passages", "1e6", "--p99-ms", "2000").stdout
