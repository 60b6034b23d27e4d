"""Which words of a query are taken for which: those one slip away by definition, and the counts of the corpus."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.index_root.log_entry import DocumentWrite, LogEntry, RetiredState, WrittenPassage
from shoal.lexical import live_statistics, spelling
from shoal.lexical.analyzer import Analyzer
from shoal.lexical.live_statistics import CORRECTED_WEIGHT, CorpusTerms, LiveStatistics
from shoal.lexical.spelling import Speller, neighbours
from shoal.lexical.statistics import count_terms
from shoal.records import Passage, Spelling
from shoal.settings import LexicalSettings
from shoal.shard.passages import to_batch

ENGLISH = LexicalSettings()
PLAIN = LexicalSettings(lexical_language="none")


def statistics(folder: Path, texts: Sequence[str], lexical: LexicalSettings = ENGLISH) -> LiveStatistics:
    """Those of a corpus of these texts."""
    analyzer = Analyzer(lexical)
    passages = [Passage(f"p{number}", text) for number, text in enumerate(texts)]
    count_terms([to_batch(passages)], analyzer, folder / "terms.arrow")
    return LiveStatistics(CorpusTerms(folder / "terms.arrow"), analyzer)


def distance(one: str, other: str) -> int:
    """Edits between two words, a swap of neighbours being one: optimal string alignment, by its recurrence."""
    lines = np.zeros((len(one) + 1, len(other) + 1), int)
    lines[:, 0], lines[0] = range(len(one) + 1), range(len(other) + 1)
    for i, j in product(range(1, len(one) + 1), range(1, len(other) + 1)):
        costs = [lines[i - 1, j] + 1, lines[i, j - 1] + 1, lines[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
        if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
            costs.append(lines[i - 2, j - 2] + 1)
        lines[i, j] = min(costs)
    return int(lines[-1, -1])


@pytest.mark.parametrize("word", ["", "a", "ab", "aa", "abc", "abba", "cccc"])
def test_neighbours_are_all_words_at_a_distance_of_one(word: str) -> None:
    every = ("".join(letters) for length in range(6) for letters in product("abc", repeat=length))
    assert set(neighbours(word, "abc")) == {other for other in every if distance(word, other) == 1}


CORPUS = (
    "retrieval of passages",
    "retrieving a passage with their adapters",
    "the river adapts",
    "Fußgänger über Brücken",
    "поиск документов",
    "สวัสดี",
    "model x1234 and year 1999",
)


@pytest.mark.parametrize(
    ("query", "corrected", "terms"),
    [
        ("passage retreival", "passage retrieval", ["retriev"]),  # two letters swapped
        ("retrievla", "retrieval", ["retriev"]),  # behind the stem
        ("Pasage, RIVERR!", "passage, river!", ["passag", "river"]),  # one too few, one too many
        ("rover rover", "river river", ["river"]),  # a wrong one
        ("fussganger brucken", "fussgänger brücken", ["fussgänger", "brücken"]),
        ("поиск документоы", "поиск документов", ["документов"]),
    ],
)
def test_a_word_that_no_passage_has_is_taken_for_one_that_is_a_slip_away(
    tmp_path: Path, query: str, corrected: str, terms: list[str]
) -> None:
    found = Speller(statistics(tmp_path, CORPUS)).correct(query)
    assert found.text == corrected
    assert list(found.terms.values()) == terms
    assert list(found.words) == list(found.terms)


@pytest.mark.parametrize(
    "query",
    [
        "retrieve the passages",  # known by their stems
        "riv",  # too short
        "wiht thier",  # slips in words that do not count, one of which is a slip away from no other
        "x1235 1998",  # codes and numbers
        "สวัสดิ",  # pairs of characters
        "elephants",  # nothing is near
        "retreivla",  # two slips
        "",
    ],
)
def test_other_words_stay_as_they_are(tmp_path: Path, query: str) -> None:
    assert Speller(statistics(tmp_path, CORPUS)).correct(query) == Spelling(query)


def test_of_several_words_that_which_most_passages_have_is_meant(tmp_path: Path) -> None:
    speller = Speller(statistics(tmp_path, ["stone store", "stone", "stove", "store", "stove"], PLAIN))
    assert speller.correct("stoke").words == {"stoke": "stone"}  # two passages each: the first by name
    (tmp_path / "more").mkdir()
    speller = Speller(statistics(tmp_path / "more", ["stone store", "stone", "stove", "store", "store"], PLAIN))
    assert speller.correct("stoke").words == {"stoke": "store"}


def test_only_so_many_words_and_letters_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speller = Speller(statistics(tmp_path, ["otter heron newts"], PLAIN))
    monkeypatch.setattr(spelling, "MAX_WORDS", 2)
    assert speller.correct("oter heronn nwets").words == {"oter": "otter", "heronn": "heron"}
    monkeypatch.setattr(spelling, "MAX_NEIGHBOURS", 40)
    assert speller.correct("oter").words == {}


def entry(position: int, *documents: tuple[Sequence[str], Sequence[str]]) -> LogEntry:
    """An entry that writes documents of one passage each, given by the words they have and those they had before."""

    def written(words: Sequence[str]) -> WrittenPassage:
        return WrittenPassage("id", "", None, None, np.zeros(2, np.float32), None, Counter(words), len(words))

    writes = tuple(
        DocumentWrite(
            "id",
            RetiredState(dict.fromkeys(old, 1), len(old), 1 if old else 0),
            (written(new),) if new else (),
        )
        for new, old in documents
    )
    return LogEntry(position, "", 0.0, "", None, None, (), writes)


def test_words_that_come_and_go_count_as_they_do(tmp_path: Path) -> None:
    counted = statistics(tmp_path, ["otter", "heron"], PLAIN)
    speller = Speller(counted)
    assert speller.correct("ottre hünde").words == {"ottre": "otter"}
    counted.apply([entry(1, (["hunde"], []), (["hündin", "hünde"], []))])
    assert speller.correct("hnüde hünd").words == {"hnüde": "hünde", "hünd": "hünde"}
    counted.apply([entry(2, ([], ["otter"]), ([], ["hündin", "hünde"]))])
    assert speller.correct("ottre hnüde hünde").words == {"hünde": "hunde"}


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(st.lists(st.text("abcd", min_size=3, max_size=6), max_size=4).map(" ".join), max_size=12),
    live=st.lists(st.lists(st.text("abce", min_size=3, max_size=6), max_size=4, unique=True), max_size=4),
    query=st.text("abcde", min_size=4, max_size=6),
)
def test_the_choice_is_that_of_going_through_all_terms(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], live: list[list[str]], query: str
) -> None:
    """Whether passages lie in the version or came later."""
    first = statistics(tmp_path_factory.mktemp("base"), texts, PLAIN)
    first.apply([entry(1, *((words, []) for words in live))])
    whole = statistics(tmp_path_factory.mktemp("whole"), [*texts, *map(" ".join, live)], PLAIN)
    counts = Counter(word for text in [*texts, *map(" ".join, live)] for word in set(text.split()))
    near = [word for word in counts if distance(word, query) == 1]
    expected: Mapping[str, Any] = {}
    if query not in counts and near:
        expected = {query: min(near, key=lambda word: (-counts[word], word))}
    for counted in (first, whole):
        assert Speller(counted).correct(query).terms == expected


def test_a_corrected_word_counts_less(tmp_path: Path) -> None:
    counted = statistics(tmp_path, ["otter river", "otter"])
    found = counted.of_query("river ottre river", {"ottre": "otter"})
    assert (found.terms, found.frequencies) == (("river", "otter", "river"), (1, 2, 1))
    assert found.weights == (1.0, CORRECTED_WEIGHT, 1.0)
    assert counted.of_query("river").weights is None


@settings(deadline=None, max_examples=20)
@given(held=st.sets(st.text(min_size=1, max_size=4), max_size=40), others=st.lists(st.text(max_size=4), max_size=40))
def test_no_term_is_said_to_be_absent_that_is_there(
    tmp_path_factory: pytest.TempPathFactory, held: set[str], others: list[str]
) -> None:
    held = {term for term in held if term.isprintable()}
    path = tmp_path_factory.mktemp("terms") / "terms.arrow"
    table = pa.table(
        [pa.array(sorted(held), pa.large_string()), pa.array([1] * len(held), pa.int64())],
        schema=live_statistics.TERM_SCHEMA.with_metadata({"passages": "1", "length": "1"}),
    )
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    terms = CorpusTerms(path)
    asked = [*held, *others]
    expected = [term in held for term in asked]
    may_hold = terms.may_hold(asked).tolist()
    assert all(may or not is_held for may, is_held in zip(may_hold, expected, strict=True))
    assert [terms.frequency(term) > 0 for term in asked] == expected
    assert terms.letters == set().union(*held)
