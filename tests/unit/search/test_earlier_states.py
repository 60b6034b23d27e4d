"""Writes that were made beside one version are laid over another one as over a fresh build."""

from collections.abc import Mapping
from pathlib import Path

import shoal
from shoal.index_root import versions
from shoal.index_root.manifest import Manifest
from tests.support.building import jsonl
from tests.support.incremental import Build, publish

WORDS = ("otter", "heron", "newt", "river")
TEXTS = {"a": "otter river", "b": "otter otter heron", "c": "newt", "d": "river river newt", "e": "heron"}
LIVE = {"b": "newt river river", "new": "otter newt", "w": "heron heron otter"}

Corpus = Mapping[str, str]


def build(root: Path, corpus: Corpus) -> Build:
    source = jsonl(root.parent / f"{root.name}.jsonl", [{"id": id_, "text": text} for id_, text in corpus.items()])
    return Build(root, source, shards=2)


def answers(root: Path) -> tuple[int, dict[str, list[tuple[str, float]]]]:
    """How many passages there are, and what words find, with their scores."""
    with shoal.open(str(root)) as index:
        found = {word: index.search(word, mode="lexical", rerank=False, consistency="strong") for word in WORDS}
        scores = {word: [(each.id, each.score) for each in answer.results] for word, answer in found.items()}
        return index.describe().passages, scores


def fresh(root: Path, corpus: Corpus) -> tuple[int, dict[str, list[tuple[str, float]]]]:
    publish(build(root, corpus))
    return answers(root)


def two_versions(root: Path) -> tuple[Manifest, Build, dict[str, str]]:
    """A version that was written to, another one of a source that has changed meanwhile, and the texts of that."""
    before, _ = publish(build(root, TEXTS))
    changed = {**TEXTS, "b": "river", "new": "newt newt newt"}
    del changed["c"]
    other = build(root, changed)
    other.embed().publish()
    with shoal.open(str(root)) as index:
        index.upsert([{"id": id_, "text": text} for id_, text in LIVE.items()])
        index.delete(["a", "c"])
    return before, other, changed


def without_deleted(corpus: Corpus) -> dict[str, str]:
    return {id_: text for id_, text in {**corpus, **LIVE}.items() if id_ not in {"a", "c"}}


def test_a_source_that_was_built_while_others_wrote(tmp_path: Path) -> None:
    _, other, changed = two_versions(tmp_path / "index")
    versions.activate(other.storage, other.plan.version)
    assert answers(tmp_path / "index") == fresh(tmp_path / "fresh", without_deleted(changed))


def test_what_was_written_to_a_later_version_over_the_one_before(tmp_path: Path) -> None:
    before, other, _ = two_versions(tmp_path / "index")
    versions.activate(other.storage, other.plan.version)
    with shoal.open(str(tmp_path / "index")) as index:
        index.upsert([{"id": "d", "text": "otter"}, {"id": "new", "text": "river"}])
        index.delete(["b"])
    versions.activate(other.storage, before.version)
    corpus = {**without_deleted(TEXTS), "d": "otter", "new": "river"}
    del corpus["b"]
    assert answers(tmp_path / "index") == fresh(tmp_path / "fresh", corpus)
