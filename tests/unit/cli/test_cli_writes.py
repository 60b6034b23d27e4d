"""The commands that write: upsert and delete, to an index root in this process."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import shoal
from shoal.cli.main import app
from shoal.records import EmbeddedTexts, InputType
from shoal.search.local_encoder import LocalEncoder
from shoal.settings import LexicalSettings
from tests.support.command_line import run
from tests.support.incremental import Build
from tests.support.incremental import publish as build_and_activate
from tests.support.indexes import passages, publish

COUNT = 20
"""Passages of the index before anything is written."""


@pytest.fixture
def root(tmp_path: Path) -> str:
    publish(tmp_path / "index", "v1", passages(COUNT), lexical=LexicalSettings(), writable=True)
    return str(tmp_path / "index")


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def texts(root: str, *ids: str) -> dict[str, str]:
    with shoal.open(root, reranker="none") as index:
        return {passage.id: passage.text for passage in index.fetch(list(ids)).passages}


def test_upsert_writes_the_records_of_a_file(root: str, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text(lines({"id": "a", "text": "a heron"}, {"id": "b", "text": "an otter", "colour": "brown"}))
    result = run("upsert", str(source), "--index", root)
    assert (result.exit_code, result.stdout) == (0, "2 passages written, 0 unchanged, 0 rejected; position 1\n")
    assert texts(root, "a", "b") == {"a": "a heron", "b": "an otter"}
    again = run("upsert", str(source), "--index", root, "--json")
    assert json.loads(again.stdout) | {"position": 1} == {"position": 1, "written": 0, "unchanged": 2, "rejected": 0}


def test_a_write_in_this_process_has_all_the_time_that_there_may_be(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []
    embed = LocalEncoder.embed

    async def seen(
        self: LocalEncoder, texts: Sequence[str], kind: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        left.append(deadline - time.monotonic())
        return await embed(self, texts, kind, deadline, with_tokens)

    monkeypatch.setattr(LocalEncoder, "embed", seen)
    source = tmp_path / "new.jsonl"
    source.write_text(lines({"id": "a", "text": "a heron"}))
    assert run("upsert", str(source), "--index", root).exit_code == 0
    assert left
    assert min(left) > 300


def test_upsert_names_what_is_no_passage_and_writes_the_rest(root: str, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    source.write_text(lines({"id": "a", "text": "a heron"}, {"id": "b"}) + "no JSON\n")
    result = run("upsert", str(source), "--index", root)
    assert result.exit_code == 3
    assert "1 passages written, 0 unchanged, 2 rejected" in result.stdout
    assert "new.jsonl:2: " in result.stderr
    assert "new.jsonl:3: " in result.stderr
    assert texts(root, "a", "b") == {"a": "a heron"}


def test_a_document_longer_than_a_passage_is_written_where_texts_are_cut(root: str, tmp_path: Path) -> None:
    folder, cutting = tmp_path / "documents", str(tmp_path / "cutting")
    folder.mkdir()
    # Beyond max_passage_bytes, which is the length of one passage.
    (folder / "long.txt").write_text("\n\n".join(f"Paragraph {n}. {'An otter swims. ' * 60}" for n in range(1100)))
    created = run("index", "create", "--index", cutting, "--encoder", "hashing:64", "--chunk-characters", "10000")
    assert created.exit_code == 0, created.stderr
    result = run("upsert", str(folder), "--index", cutting)
    assert result.exit_code == 0, result.stderr
    assert "1 records written, 0 unchanged, 0 rejected" in result.stdout
    with shoal.open(cutting, reranker="none") as index:
        assert index.describe().passages > 100
        assert index.describe().chunk_characters == 10000
        (some,) = index.list(limit=1).ids
    deleted = run("delete", some.rpartition("#")[0], "--index", cutting)
    assert deleted.stdout == "1 records deleted; position 2\n"
    whole = run("upsert", str(folder), "--index", root)
    assert whole.exit_code == 3
    assert "long.txt: the field 'text' is" in whole.stderr
    assert "each document is written as one passage" in whole.stderr


def test_a_single_document_has_the_id_that_its_folder_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = tmp_path / "docs", str(tmp_path / "index")
    (folder / "year=2020" / "notes").mkdir(parents=True)
    (folder / "year=2020" / "notes" / "shed.md").write_text("# Shed\n\nA heron lives here.\n")
    (folder / "top.md").write_text("# Top\n\nAn otter swims.\n")
    assert run("index", "create", "--index", root, "--encoder", "hashing:16", "--documents").exit_code == 0
    assert "2 records written" in run("upsert", str(folder), "--index", root).stdout
    monkeypatch.chdir(folder)
    for single in (folder / "year=2020" / "notes" / "shed.md", folder / "year=2020", Path("year=2020/notes")):
        again = run("upsert", str(single), "--index", root, "--relative-to", str(folder))
        assert "0 records written, 1 unchanged" in again.stdout, again.stderr
    outside = run("upsert", "top.md", "--index", root, "--relative-to", str(folder / "year=2020"))
    assert outside.exit_code == 2
    assert f"does not lie in {folder / 'year=2020'}" in outside.stderr
    assert "1 records written" in run("upsert", "top.md", "--index", root, "--relative-to", "..").stdout
    with shoal.open(root, reranker="none") as index:
        ids = ["docs/top.md#1", "top.md#1", "year=2020/notes/shed.md#1"]
        assert sorted(index.list().ids) == ids
        assert [passage.metadata["path"] for passage in index.fetch(ids).passages] == [id_[:-2] for id_ in ids]


def test_written_documents_have_the_passages_of_a_build(tmp_path: Path) -> None:
    folder, root = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    long = "An otter swims in the river. " * 60
    (folder / "a.md").write_text(f"# Herons\n\nThey wade.\n\n## Nests\n\n{long}\n\n## Food\n\nFish.\n")
    (folder / "b.txt").write_text(f"{long}\n\n{long}")
    manifest, _ = build_and_activate(Build(tmp_path / "built", folder, shards=1))
    assert manifest.build["chunk_characters"] == 1000
    created = run("index", "create", "--index", str(root), "--encoder", "hashing:16", "--documents")
    assert created.exit_code == 0, created.stderr
    written = run("upsert", str(folder), "--index", str(root))
    assert (written.exit_code, written.stderr) == (0, "")
    found = []
    for place in (tmp_path / "built", root):
        with shoal.open(place, reranker="none") as index:
            ids = sorted(index.list().ids)
            passages = index.fetch(ids).passages
            found.append([(each.id, each.title, each.text, dict(each.metadata)) for each in passages])
    assert len(found[0]) > 5
    assert found[0] == found[1]


def test_upsert_reads_texts_from_the_field_that_the_index_names(tmp_path: Path) -> None:
    root, source = str(tmp_path / "index"), tmp_path / "new.jsonl"
    created = run("index", "create", "--index", root, "--encoder", "hashing:64", "--text-field", "body")
    assert created.exit_code == 0, created.stderr
    assert "text_field=body" in run("index", "show", "--index", root).stdout.replace("\n", "")
    source.write_text(lines({"id": "a", "body": "a heron", "text": "metadata"}))
    assert run("upsert", str(source), "--index", root).exit_code == 0
    assert texts(root, "a") == {"a": "a heron"}
    assert run("upsert", str(source), "--index", root, "--text-field", "text").exit_code == 0
    assert texts(root, "a") == {"a": "metadata"}


def test_upsert_reads_standard_input_from_a_pipe(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = tmp_path / "piped"
    piped.write_text(lines({"key": "a", "body": "a heron"}))
    with piped.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(SystemExit) as ended:
            app(["upsert", "-", "--index", root, "--id-field", "key", "--text-field", "body"])
    assert ended.value.code == 0
    assert texts(root, "a") == {"a": "a heron"}


def test_delete_takes_ids_a_filter_or_all(root: str) -> None:
    known = [passage.id for passage in passages(COUNT)]
    result = run("delete", *known[:2], "--index", root)
    assert (result.exit_code, result.stdout) == (0, "2 passages deleted; position 1\n")
    assert set(texts(root, *known)) == set(known[2:])
    from_stdin = CliRunner().invoke(app, ["delete", "-", "--index", root, "--json"], input=f"{known[2]}\nnobody\n")
    assert json.loads(from_stdin.stdout) == {"position": 2, "deleted": 1}
    everything = run("delete", "--all", "--index", root, "--json")
    assert json.loads(everything.stdout)["deleted"] == COUNT - 3
    assert texts(root, *known) == {}


@pytest.mark.parametrize("words", [[], ["a", "--all"], ["--all", "--filter", '{"n": 1}']])
def test_delete_wants_to_be_told_what_in_one_way(words: list[str], root: str) -> None:
    result = run("delete", *words, "--index", root)
    assert result.exit_code == 2
    assert "ids, --filter or --all" in result.stderr
    assert len(texts(root, *(passage.id for passage in passages(COUNT)))) == COUNT


@pytest.mark.parametrize("command", [["upsert", "new.jsonl"], ["delete", "a"]])
def test_writing_goes_to_a_server_or_to_a_root(command: list[str], root: str) -> None:
    result = run(*command, "--index", root, "--url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "--index" in result.stderr
