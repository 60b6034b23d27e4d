"""The course of a build as far as it needs no Ray: which plan goes on, what becomes of a version that is published."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.build.driver import Builder
from jobs.progress import Reporter
from jobs.session import Cluster
from shoal.errors import CorruptIndex, InvalidArgument, Unavailable
from shoal.evaluation.gate import Verdict
from shoal.index_root import layout, versions
from shoal.indexing.plan import make_plan
from tests.unit.indexing.test_build import Build, jsonl, records


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build whose units are embedded."""
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", records(30)))
    build.storage.write(layout.plan(build.plan.hash), build.plan.to_bytes())
    return build.embed()


def builder(build: Build, **changes: Any) -> Builder:
    reporter = Reporter(Console(file=io.StringIO(), width=1000))
    return Builder(build.settings.model_copy(update=changes), Cluster(2, 0, private=True, in_process=True), reporter)


def said(builder: Builder) -> str:
    out = builder._reporter.console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_a_build_goes_on_where_its_input_and_its_model_lie_now(build: Build, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    source = (tmp_path / "in.jsonl").rename(tmp_path / "moved" / "in.jsonl")
    fresh = make_plan(
        build.settings.model_copy(update={"source": str(source)}),
        build.encoder.fingerprint().model_copy(update={"model": "/moved/model"}),
    )
    assert fresh.hash == build.plan.hash
    staged = builder(build)._staged(fresh)
    assert staged.version == build.plan.version
    assert [file.uri for file in staged.files] == [str(source)]
    assert (staged.source.source, staged.encoder.model) == (str(source), "/moved/model")
    assert list(staged.units) == list(build.plan.units)
    assert build.storage.read(layout.plan(build.plan.hash)) == staged.to_bytes()


def test_a_graph_that_a_gpu_links_is_refused_without_one_before_any_work(build: Build) -> None:
    refusing = builder(build, index_kind="cagra")
    with pytest.raises(InvalidArgument, match=r"'cagra' is built on an NVIDIA GPU .* there is none here; take hnsw"):
        refusing.plan()
    assert said(refusing) == ""


def test_staging_that_cannot_be_cleared_is_told_and_no_reason_to_fail(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*arguments: Any) -> None:
        raise Unavailable("another process is writing to it")

    monkeypatch.setattr(versions, "discard_staging", busy)
    one = builder(build)
    assert one._finish(build.plan.hash, build.publish()).activated
    assert "another process is writing to it; `shoal index prune` removes" in said(one)


@pytest.mark.parametrize("gate", [None, ["recall=0.9"]])
def test_a_broken_current_is_mended_by_the_next_build(build: Build, gate: list[str] | None) -> None:
    version = build.publish()
    build.storage.write(layout.CURRENT, b"half of it")
    assert not builder(build, gate=gate, activate=False)._finish(build.plan.hash, version).activated
    summary = builder(build, gate=gate)._finish(build.plan.hash, version)
    assert summary.activated
    assert (summary.gate is None) == (gate is None)
    current = versions.read_current(build.storage)
    assert current is not None
    assert current.version == version


def test_a_version_that_is_current_already_is_not_read_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    version = build.publish()
    builder(build)._finish(build.plan.hash, version)

    def verify(*arguments: Any) -> list[str]:
        raise AssertionError("nothing is to be read")

    monkeypatch.setattr(versions, "verify", verify)
    assert builder(build)._finish(build.plan.hash, version).activated


def test_a_shard_that_lost_passages_is_indexed_anew_by_the_same_command(build: Build) -> None:
    build.index()
    build.tally.shard_rows[1] += 2
    with pytest.raises(CorruptIndex, match=r"shard 1 lost 2 passages.*run the same command again"):
        builder(build)._verify(build.plan, build.tally)
    assert [build.storage.exists(layout.shard_commit(build.plan.hash, shard)) for shard in range(3)] == [
        True,
        False,
        True,
    ]


def losing(tmp_path: Path, passages: int, repeated: int) -> Build:
    lines = [*records(passages), *records(1) * repeated]
    return Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines), shards=1).embed()


def test_a_version_that_lost_too_much_is_published_and_not_made_current(tmp_path: Path) -> None:
    build = losing(tmp_path, 1, 29)
    version = build.publish()
    summary = builder(build)._finish(build.plan.hash, version)
    assert not summary.activated
    assert summary.refused
    assert versions.read_current(build.storage) is None
    rows = dict(summary.rows())
    assert "96.7% of the records, more than the 10.0% of --max-lost" in rows["lost"]
    assert rows["lost"].endswith("run again with --max-lost 0.97")
    assert ("", f"each in {build.storage.place(layout.rejected(version))}") in summary.rows()
    refusal = str(versions.nothing_published(build.storage))
    assert f"{version} was built and refused (96.7% of the records were lost, more than --max-lost 10.0%)" in refusal
    assert f"shoal index activate {version} --index {build.storage.place()}" in refusal
    assert ("", "in.jsonl:2: duplicate id, and 28 more like it") in summary.rows()
    assert summary.to_json()["losses"] == {
        "share": 0.9667,
        "allowed": 0.1,
        "refused": True,
        "reasons": [{"records": 29, "reason": "duplicate id", "location": "in.jsonl:2"}],
    }
    again = builder(build, max_lost=1.0)._finish(build.plan.hash, version)
    assert again.activated
    assert not again.refused
    assert not builder(build)._finish(build.plan.hash, version).refused  # it is current already


def test_records_that_an_older_shoal_has_rejected_are_told_where_there_is_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*records(20), {"id": "bad"}]
    build = Build(tmp_path / "index", jsonl(tmp_path / "in.jsonl", lines), shards=1).embed()
    version = build.publish()
    monkeypatch.setattr(Builder, "plan", lambda self: build.plan)
    newer, older = builder(build), builder(build)
    assert newer.build().version == version
    assert "nothing to do" in said(newer)
    assert "older Shoal" not in said(newer)
    build.storage.delete(layout.report(version))
    assert older.build().version == version
    assert "rejected 1 records; this one reads records with nested values" in said(older)


def test_the_root_says_which_version_was_refused_until_nothing_speaks_against_it(tmp_path: Path) -> None:
    build = losing(tmp_path, 1, 29)
    version = build.publish()
    builder(build)._finish(build.plan.hash, version)
    refusals = versions.read_refusals(build.storage)
    assert {name: refusal.reasons for name, refusal in refusals.items()} == {
        version: ["96.7% of the records were lost, more than --max-lost 10.0%"]
    }
    assert versions.verify(build.storage, version) == []  # it lies beside the versions, none of which ever changes
    builder(build, max_lost=1.0, activate=False)._finish(build.plan.hash, version)
    assert versions.read_refusals(build.storage) == {}


def test_the_reasons_of_a_gate_are_written_down(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    version = build.publish()
    reasons = ["recall@10 is 0.8100, 0.9 was demanded"]
    monkeypatch.setattr("jobs.build.driver.judge", lambda *_: Verdict(reasons, {"recall@10": 0.81}, []))
    builder(build, gate=["recall=0.9"])._finish(build.plan.hash, version)
    assert versions.read_refusals(build.storage)[version].reasons == reasons
    versions.activate(build.storage, version)
    assert versions.read_refusals(build.storage) == {}


def test_a_version_that_lost_no_more_than_is_allowed_is_made_current(tmp_path: Path) -> None:
    build = losing(tmp_path, 27, 3)
    summary = builder(build)._finish(build.plan.hash, build.publish())
    assert (summary.activated, summary.refused) == (True, False)
    assert summary.losses is not None
    assert summary.losses.share == 0.1


def test_a_version_that_lost_too_much_is_not_asked_anything_by_its_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*arguments: Any) -> None:
        raise AssertionError("nothing is to be asked")

    monkeypatch.setattr("jobs.build.driver.judge", judge)
    build = losing(tmp_path, 1, 2)
    assert builder(build, gate=["recall=0.9"])._finish(build.plan.hash, build.publish()).refused
