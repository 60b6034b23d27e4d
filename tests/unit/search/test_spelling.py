"""Misspelt queries through an index: what they find, what the answer says, and where they stay as they were typed."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.client.answers import SearchResponse
from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.records import Passage, Spelling
from shoal.search.live_index import LiveIndex
from shoal.search.spelling_stage import SpellingStage
from shoal.search.trace import SearchTrace
from shoal.settings import LexicalSettings, SpellingSettings
from tests.support import indexes
from tests.support.building import jsonl
from tests.support.incremental import Build, publish
from tests.support.search_system import request

TEXTS = {
    "a": "otters swim in the river",
    "b": "a heron stands beside the river",
    "c": "newts hide under stones. Otters hunt them at night.",
    "d": "stones and water",
}
NOTE = "no passage has the word ottres; otters was searched for in its place"


def build(root: Path, **options: Any) -> Build:
    source = jsonl(root.parent / f"{root.name}.jsonl", [{"id": id_, "text": text} for id_, text in TEXTS.items()])
    return Build(root, source, **{"shards": 3, **options})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(build(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def index(root: Path) -> Iterator[shoal.Index]:
    with shoal.open(str(root), reranker="overlap") as opened:
        yield opened


def found(answer: SearchResponse) -> list[tuple[str, float]]:
    return [(result.id, result.score) for result in answer.results]


def test_a_misspelt_word_finds_what_was_meant_and_the_answer_says_so(index: shoal.Index) -> None:
    answer = index.search("Ottres", mode="lexical", rerank=False, highlight=True)
    assert answer.warnings == [NOTE]
    assert [result.id for result in answer.results] == ["a", "c"]
    highlights = [result.highlight.text for result in answer.results if result.highlight]
    assert highlights == ["otters swim in the river", "Otters hunt them at night."]


def test_a_corrected_word_counts_less_than_one_that_was_typed(index: shoal.Index) -> None:
    corrected, typed = (dict(found(index.search(word, mode="lexical", rerank=False))) for word in ("ottres", "otters"))
    assert {id_: score / typed[id_] for id_, score in corrected.items()} == pytest.approx({"a": 0.7, "c": 0.7})


@pytest.mark.parametrize("options", [{"mode": "dense", "rerank": False}, {"mode": "dense", "rerank": True}])
def test_vectors_and_rerankers_get_the_word_that_was_meant(index: shoal.Index, options: Any) -> None:
    assert found(index.search("ottres hunt", **options)) == found(index.search("otters hunt", **options))


def test_a_query_whose_words_are_known_is_answered_as_without_correcting(root: Path, index: shoal.Index) -> None:
    with shoal.open(str(root), reranker="overlap", correct_spelling=False) as without:
        for mode in ("dense", "lexical", "hybrid"):
            answer = index.search("an otter in the river", mode=mode)
            assert found(answer) == found(without.search("an otter in the river", mode=mode))
            assert answer.warnings == []
        answer = without.search("ottres river", mode="lexical")
        assert [result.id for result in answer.results] == ["a", "b"]
        assert answer.warnings == []


@pytest.mark.parametrize("of_server", [True, False])
def test_a_request_may_ask_otherwise(root: Path, of_server: bool) -> None:
    with shoal.open(str(root), reranker="none", correct_spelling=of_server) as index:
        for wanted in (True, False):
            answer = index.search("ottres", mode="lexical", correct_spelling=wanted)
            assert [result.id for result in answer.results] == (["a", "c"] if wanted else [])


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_any_number_of_shards_gives_the_same_answer(index: shoal.Index, tmp_path: Path, shards: int) -> None:
    publish(build(tmp_path / "other", shards=shards))
    with shoal.open(str(tmp_path / "other"), reranker="overlap") as other:
        for query in ("ottres river", "haron nwets stoness"):
            for mode in ("lexical", "hybrid"):
                answers = [one.search(query, mode=mode, rerank=False) for one in (index, other)]
                assert found(answers[0]) == found(answers[1])
                assert answers[0].warnings == answers[1].warnings != []


def test_a_page_follows_the_one_before(index: shoal.Index) -> None:
    whole = found(index.search("ottres river", mode="lexical", rerank=False))
    first = index.search("ottres river", mode="lexical", rerank=False, top_n=1)
    second = index.search("ottres river", mode="lexical", rerank=False, top_n=1, after=first.next)
    assert found(first) + found(second) == whole[:2]


def test_words_that_were_written_since_are_known_and_those_that_have_gone_are_not(index: shoal.Index) -> None:
    index.upsert([{"id": "e", "text": "ottres are no animals"}])
    assert index.search("ottres", mode="lexical", consistency="strong").warnings == []
    index.upsert([{"id": "e", "text": "kingfishers dive"}])
    answer = index.search("kingfishres", mode="lexical", consistency="strong")
    assert [result.id for result in answer.results] == ["e"]
    assert index.search("ottres", mode="lexical").warnings == [NOTE]


def test_a_namespace_hears_nothing_of_the_words_of_others(index: shoal.Index) -> None:
    index.upsert([{"id": "e", "text": "herons fly"}], namespace="other")
    answer = index.search("ottres", mode="lexical", namespace="other", consistency="strong")
    assert answer.results == []
    assert not any("otters" in warning for warning in answer.warnings)


def test_a_version_that_does_not_say_which_words_it_has_takes_them_as_they_are(tmp_path: Path) -> None:
    passages = [Passage(id_, text) for id_, text in TEXTS.items()]
    indexes.publish(tmp_path / "older", "v1", passages, encoder="hashing:8", lexical=LexicalSettings())
    with shoal.open(str(tmp_path / "older"), reranker="none") as index:
        answer = index.search("ottres river", mode="lexical")
    assert [result.id for result in answer.results] == ["a", "b"]
    assert answer.warnings == []


def test_a_damaged_file_of_words_costs_no_answer(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (terms,) = root.glob("versions/*/terms.arrow")
    terms.write_bytes(b"no arrow")
    with shoal.open(str(root), reranker="none") as index, caplog.at_level(logging.ERROR):
        answer = index.search("ottres river", mode="lexical")
    assert [result.id for result in answer.results] == ["a", "b"]
    assert "queries cannot be corrected" in caplog.text


async def test_a_query_does_not_wait_for_words_beyond_its_share_of_the_time(root: Path) -> None:
    storage = Storage(str(root))
    live = LiveIndex(storage, versions.current_manifest(storage))
    stage, trace = SpellingStage(SpellingSettings(), time.monotonic), SearchTrace(time.monotonic, time.monotonic())
    asked = request("ottres", deadline=time.monotonic() + 60)
    assert await stage.spelled(asked, live, time.monotonic() - 1, trace) == Spelling("ottres")
    assert trace.warnings == []
    assert (await stage.spelled(asked, live, asked.deadline, trace)).text == "otters"
    assert trace.warnings == [NOTE]
