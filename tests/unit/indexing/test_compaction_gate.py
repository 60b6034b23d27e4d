"""A compaction whose gate fails is published and not made current; what was written stays, and it is not repeated."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import shoal
from shoal.evaluation import gate
from shoal.evaluation.gate import Answers, judge_compaction, read_gate
from shoal.index_root import layout, versions
from shoal.index_root.log import Log
from shoal.index_root.manifest import Manifest
from shoal.indexing import compaction_refusals
from shoal.indexing.compaction import compact
from shoal.indexing.compaction_refusals import FIRST_WAIT_S, refused_compactions
from shoal.settings import CompactSettings
from tests.support.command_line import run
from tests.support.written import Root


def refusing(manifest: Manifest) -> list[str]:
    return ["nDCG@10 falls"]


def refused_by(root: Root) -> Manifest:
    done = compact(CompactSettings(index=root.storage.uri), Log.open(root.storage), refusing)
    assert done is not None
    return done


def test_what_was_written_stays_laid_over_the_current_version(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "written topic"}, "p2"])
    refused = refused_by(root)
    assert versions.current_manifest(root.storage).version == root.manifest.version
    assert versions.read_refusals(root.storage)[refused.version].reasons == ["nDCG@10 falls"]
    assert list(root.storage.list(layout.STAGING)) == []
    with shoal.open(root.storage.uri, reranker="none") as index:
        assert {passage.id for passage in index.fetch(["n1", "p1", "p2"]).passages} == {"n1", "p1"}


def test_the_same_version_is_looked_at_again_and_made_current_once_it_passes(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "written topic"}])
    refused = refused_by(root)
    assert refused_by(root).version == refused.version
    assert root.compact().version == refused.version
    assert versions.current_manifest(root.storage).version == refused.version
    assert versions.read_refusals(root.storage) == {}


def test_the_next_one_waits_longer_after_each(tmp_path: Path) -> None:
    root = Root(tmp_path)
    now = datetime.now(UTC)
    assert refused_compactions(root.storage, root.manifest, now) is None
    names = []
    for number in range(2):
        root.write([{"id": f"n{number}", "text": "written topic"}])
        names.append(refused_by(root).version)
        found = refused_compactions(root.storage, root.manifest, now + timedelta(minutes=1))
        assert found is not None
        assert (found.version, found.reasons) == (names[-1], ["nDCG@10 falls"])
        assert found.wait_s > FIRST_WAIT_S * 2**number - 120
        later = refused_compactions(root.storage, root.manifest, now + timedelta(hours=2**number, minutes=1))
        assert later is not None
        assert later.wait_s <= 0
    assert len(set(names)) == 2
    assert refused_compactions(root.storage, versions.read_manifest(root.storage, names[1]), now) is None


def test_the_command_ends_with_3_and_holds_off_where_it_is_due_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "written topic"}])
    monkeypatch.setattr(gate, "judge_compaction", lambda *_: ["recall@10 is 0.5000, 0.9 was demanded"])
    command = ("compact", "--index", root.storage.uri, "--gate", "recall=0.9")
    done = run(*command)
    assert done.exit_code == 3
    assert "did not pass its gate and is not current: recall@10 is 0.5000" in " ".join(done.output.split())
    due = (*command, "--due-rows", "1", "--if-due")
    held = run(*due, "--json")
    assert held.exit_code == 3
    assert json.loads(held.stdout)["refused"] == ["recall@10 is 0.5000, 0.9 was demanded"]
    root.write([{"id": "n2", "text": "written topic"}])
    assert "tried again in" in " ".join(run(*due).output.split())
    assert len(versions.list_versions(root.storage)) == 2  # nothing was built for it
    monkeypatch.setattr(compaction_refusals, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(gate, "judge_compaction", lambda *_: [])
    assert run(*due).exit_code == 0
    assert versions.current_manifest(root.storage).complete_to == 2


def test_a_compaction_is_asked_by_the_encoder_of_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(tmp_path)
    root.write([{"id": "n1", "text": "quite another word"}])
    settings = CompactSettings(index=root.storage.uri, gate=["max_drop=0.5", "min_ndcg=0"], sample_judgements=4)
    demands = read_gate(settings)
    assert demands is not None
    compacted = compact(settings, Log.open(root.storage), lambda manifest: ["not yet"])
    assert compacted is not None
    asked: list[Answers] = []
    real = gate.ask
    monkeypatch.setattr(gate, "ask", lambda *options: asked.append(real(*options)) or asked[-1])
    assert judge_compaction(settings, demands, compacted) == []
    (answers,) = asked
    assert answers.active is not None
    assert len(answers.new.rankings) == len(answers.dataset.queries) > 0
