"""Nothing that was written is lost when versions are compacted, made current, rolled back to and removed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shoal.cli.main import app
from shoal.errors import Conflict
from shoal.index_root import layout, log, versions
from shoal.index_root.log import Log
from shoal.index_root.log_cover import missing_file, require_cover
from shoal.index_root.log_pruning import prune_log
from shoal.index_root.manifest import LOG_FORMAT_VERSION, LogInfo
from shoal.index_root.storage import Storage
from shoal.search.live_index import LiveIndex
from tests.support.building import jsonl, records
from tests.support.incremental import Build, forget_documents, publish
from tests.support.written import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


@pytest.fixture
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are old enough to be removed at once."""
    monkeypatch.setattr(log, "KEY_LIFETIME_S", -60.0)
    monkeypatch.setattr(log, "REMOVAL_DELAY_S", -60.0)


def test_the_command_says_what_became_of_the_log(root: Root) -> None:
    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["compact", "--index", root.storage.uri, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert run() == f"nothing was written since version {root.manifest.version}: there is nothing to compact\n"
    root.write([{"id": "p1", "text": "written anew"}, {"id": "new", "text": "new"}])
    root.write(["p2"])
    said = run()
    current = versions.current_manifest(root.storage)
    assert said == (
        f"version {current.version} holds all that was written up to position 2: 5 passages, 3 of "
        f"{root.manifest.version}, 2 of the log; 2 were replaced or deleted\n"
    )
    shown = CliRunner().invoke(app, ["index", "show", "--index", root.storage.uri]).stdout
    assert " ".join(shown.split()).count("3 reused, 2 from the log or embedded, 2 of its passages removed") == 1
    assert f'"version": "{current.version}", "compacted": false, "position": 2, "passages": 5' in run("--json")


@pytest.mark.usefixtures("in_no_hurry")
def test_the_log_is_kept_for_every_version_that_is_kept(root: Root) -> None:
    root.write([{"id": "a", "text": "one"}])
    first = root.compact()
    versions.prune(root.storage, 0)
    assert prune_log(root.storage) == []  # a rollback to the version from before the log replays all of it
    assert versions.rollback(root.storage).version == root.manifest.version
    versions.activate(root.storage, first.version)
    root.write(["a"])
    root.write([{"id": "b", "text": "two"}])
    second = root.compact()
    assert versions.prune(root.storage, 0) == [root.manifest.version]
    removed = prune_log(root.storage)
    assert layout.log_entry(1) in removed
    assert Log.open(root.storage).floor() == 1
    assert [entry.position for entry in Log.open(root.storage).read(1)] == [2, 3]
    assert versions.rollback(root.storage).version == first.version
    assert versions.activate(root.storage, second.version).version == second.version


@pytest.mark.usefixtures("in_no_hurry")
def test_a_version_that_the_log_does_not_complete_any_more_is_not_made_current(root: Root) -> None:
    root.write([{"id": "a", "text": "one"}])
    before = root.storage.read(layout.manifest(root.manifest.version))
    compacted = root.compact()
    root.storage.delete(layout.manifest(root.manifest.version))  # as prune takes it away
    prune_log(root.storage)
    root.storage.write(layout.manifest(root.manifest.version), before)
    with pytest.raises(Conflict, match="entries up to 1 may be gone: serving it would lose writes"):
        versions.activate(root.storage, root.manifest.version)
    assert versions.current_manifest(root.storage).version == compacted.version


def test_a_version_without_the_files_for_writes_is_not_made_current_over_a_log(root: Root) -> None:
    assert missing_file(root.manifest) is None
    forget_documents(root.build, root.manifest)
    old = versions.read_manifest(root.storage, root.manifest.version)
    assert missing_file(old) == f"{layout.shard_name(0)}/{layout.DOCUMENTS}"
    require_cover(root.storage, old)
    root.write(["p1"])
    with pytest.raises(Conflict, match="build it again: nothing is embedded anew"):
        require_cover(root.storage, old)
    complete = {"log": LogInfo(position=1), "format_version": LOG_FORMAT_VERSION}
    require_cover(root.storage, old.model_copy(update=complete))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"encoder": "hashing:24"}, "encoder"),
        ({"lexical_language": "german"}, "lexical index"),
        ({"lexical": False}, "lexical index"),
        ({"late_interaction": "stored", "late_dims": 8}, "kind of token vectors"),
    ],
)
def test_a_version_of_other_models_is_not_made_current_over_what_was_written_for_those_before(
    root: Root, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], name: str
) -> None:
    monkeypatch.setattr("tests.support.building.DIM", int(str(changes.get("encoder", "hashing:16")).split(":")[1]))
    other = Build(root.storage.uri, Path(root.build.settings.source), **changes)
    if other.plan.stores_tokens:
        other.codec()
    other.embed().publish()
    versions.activate(root.storage, other.plan.version)
    versions.rollback(root.storage)
    root.write([{"id": "a", "text": "one"}])
    with pytest.raises(Conflict, match=f"entry 1 of the log was written for a version with another {name} than"):
        versions.activate(root.storage, other.plan.version)
    # Where another process made it current, what was written for it is seen, and the rest said to be missing.
    served = LiveIndex(root.storage, versions.read_manifest(root.storage, other.plan.version))
    served.replay()
    assert served.position is None
    assert served.tail.problem is not None
    assert f"with another {name}" in served.tail.problem


def test_what_became_current_meanwhile_stays_so(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write(["p1"])
    other = Build(root.storage.uri, jsonl(tmp_path / "other.jsonl", records(3)))
    monkeypatch.setattr("shoal.indexing.compaction.inherit_codec", lambda *_: None)

    def switching(*arguments: object) -> None:
        publish(other)

    monkeypatch.setattr("shoal.indexing.compaction._inherit_quantizer", switching)
    with pytest.raises(Conflict, match=f"not current: {other.plan.version} has become so"):
        root.compact()
    assert versions.current_manifest(root.storage).version == other.plan.version


def test_a_root_without_a_log_has_nothing_to_prune(tmp_path: Path) -> None:
    publish(Build(tmp_path, jsonl(tmp_path / "corpus.jsonl", records(3))))
    assert prune_log(Storage(str(tmp_path))) == []
    assert not (tmp_path / "log").exists()
