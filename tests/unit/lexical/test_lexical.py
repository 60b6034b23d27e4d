"""BM25 over shards: terms, statistics of the corpus, and the same ids and scores however many shards there are."""

import errno
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import Conflict, CorruptIndex, InvalidArgument
from shoal.filters import Compare
from shoal.index_root import layout
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.plan import shard_of
from shoal.lexical import statistics, writer
from shoal.lexical.analyzer import LONGEST, Analyzer, languages
from shoal.lexical.index import LexicalIndex
from shoal.lexical.statistics import Totals, count_terms, look_up, merge_terms, read_terms
from shoal.lexical.term_lists import scores_of
from shoal.records import Candidate, Passage
from shoal.search import merge
from shoal.settings import LexicalSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.passages import to_batch
from shoal.shard.reader import Shard
from tests.support.indexes import LexicalTerms, publish

LEXICAL = LexicalSettings()
PLAIN = LexicalSettings(lexical_language="none")


def terms(text: str, **changes: Any) -> list[str]:
    return Analyzer(LexicalSettings.model_validate(changes)).terms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The runners were running, 42 times!", ["runner", "were", "run", "42", "time"]),
        ("\uff26\uff35\uff2c\uff2c width, Straße; ﬁle_name", ["full", "width", "strass", "file", "name"]),
        ("x² and ΣΊΣΥΦΟΣ", ["x2", "σίσυφοσ"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京都に行く", ["東京", "京都", "都に", "に行", "行く"]),
        ("データベース", ["デー", "ータ", "タベ", "ベー", "ース"]),
        ("ｶﾞ 水", ["ガ", "水"]),
        ("AI時代 2019年版", ["ai", "時代", "2019", "年版"]),
        ("한국어 처리", ["한국", "국어", "처리"]),
        ("สวัสดี", ["สวั", "วัส", "สดี"]),
        ("  …—!  ", []),
    ],
)
def test_a_text_is_cut_into_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_the_language_decides_about_stems_and_stop_words() -> None:
    text = "Die Häuser und die Straßen"
    assert terms(text, lexical_language="german") == ["haus", "strass"]
    assert terms(text, lexical_language="German", lexical_stopwords=False) == ["die", "haus", "und", "die", "strass"]
    assert terms(text, lexical_language="none") == ["die", "häuser", "und", "die", "strassen"]
    assert {"english", "german", "none"} <= set(languages())
    with pytest.raises(InvalidArgument, match=r"no stemmer for 'klingon': use none, .* english") as refused:
        terms(text, lexical_language="klingon")
    assert refused.value.param == "lexical_language"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_terms_do_not_depend_on_case_or_composition(text: str) -> None:
    found = terms(text)
    assert "" not in found
    folded = unicodedata.normalize("NFKC", text)
    assert terms(folded) == found


def test_a_word_without_end_is_cut() -> None:
    assert terms("x" * 5000, lexical_language="none") == ["x" * LONGEST]


def content(count: int) -> list[Passage]:
    """Passages with many equal scores: few words, some texts more than once, a few empty of terms."""
    words = ["otter", "heron", "newt", "river", "stone", "the", "fish", "fishes", "quick"]
    random = np.random.default_rng(5)
    made = []
    for number in range(count):
        text = " ".join(random.choice(words, random.integers(1, 6)))
        made.append(Passage(f"p{number}", "..." if number % 17 == 3 else text, "river" if number % 5 == 0 else None))
    return made


QUERIES = ["otter", "fish river", "the", "quick quick stone otter", "unknown words", "heron newt fish", ""]


def answers(root: Path, manifest: Manifest, top_k: int) -> list[list[Candidate]]:
    queries = [ShardQuery(query, None, "lexical") for query in QUERIES]
    found = []
    for entry in manifest.shards:
        shard = Shard.open(Storage(str(root)), manifest, entry.shard, cache=None, threads=1)
        hits = shard.search(queries, top_k, False)
        assert list(hits.by_retriever) == ["lexical"]
        assert (
            hits.by_retriever["lexical"].scores.shape
            == hits.by_retriever["lexical"].rows.shape
            == (len(QUERIES), top_k)
        )
        found.append((entry.shard, hits.by_retriever["lexical"]))
    return [
        merge.merge([(number, hits, query) for number, hits in found], top_k, "lexical")
        for query in range(len(QUERIES))
    ]


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("top_k", [1, 7, 300])
def test_any_number_of_shards_ranks_exactly_as_bm25s_over_the_whole_corpus(
    tmp_path: Path, shards: int, top_k: int
) -> None:
    corpus = content(200)
    root = tmp_path / "root"
    manifest = publish(root, "v1", corpus, shards=shards, encoder="hashing:8", lexical=LEXICAL)
    assert manifest.lexical is not None
    assert manifest.lexical.passages == 200

    analyzer = Analyzer(LEXICAL)
    reference = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    reference.index([analyzer.terms(passage.content) for passage in corpus], show_progress=False)
    for query, candidates in zip(QUERIES, answers(root, manifest, top_k), strict=True):
        known = [term for term in analyzer.terms(query) if term in reference.vocab_dict]
        scores = reference.get_scores(known) if known else np.zeros(200, np.float32)
        expected = sorted(
            ((float(score), passage.id) for score, passage in zip(scores, corpus, strict=True) if score > 0),
            key=lambda entry: (-entry[0], entry[1]),
        )[:top_k]
        assert [(candidate.score, candidate.id) for candidate in candidates] == expected
        assert [candidate.ranks["lexical"] for candidate in candidates] == list(range(1, len(expected) + 1))


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.text("ab c", max_size=12), min_size=1, max_size=30),
    shards=st.integers(1, 4),
    k1=st.floats(0, 3),
    b=st.floats(0, 1),
)
def test_the_scores_are_the_formula(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], shards: int, k1: float, b: float
) -> None:
    corpus = [Passage(f"p{number}", text) for number, text in enumerate(texts)]
    lexical = LexicalSettings(lexical_language="none", lexical_k1=k1, lexical_b=b)
    parts = [[passage for passage in corpus if shard_of(passage.id, shards) == shard] for shard in range(shards)]
    folder = tmp_path_factory.mktemp("lexical")
    counted = LexicalTerms(folder / "terms", [to_batch(part) for part in parts], lexical)
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / len(words)
    for shard, part in enumerate(parts):
        made = counted.writer(folder / str(shard), shard)
        assert [block for block, _ in made.tee([(to_batch(part[:2]), 1), (to_batch(part[2:]), 2)])]
        paths = {name: folder / str(shard) / name for name in writer.FILES}
        index = LexicalIndex(paths, len(part), counted.info())
        for query in ("a", "b ab", "c c a"):
            for score, passage in zip(scores_of(index.lists(query), np.arange(len(part))), part, strict=True):
                own = passage.text.split()
                expected = 0.0
                for term in query.split():
                    frequency, holding = own.count(term), sum(term in other for other in words)
                    if frequency:
                        idf = np.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
                        expected += idf * frequency / (frequency + k1 * (1 - b + b * len(own) / mean))
                assert score == pytest.approx(expected, rel=1e-5)


def test_hybrid_hits_have_both_scores(tmp_path: Path) -> None:
    corpus = content(60)
    manifest = publish(tmp_path / "root", "v1", corpus, shards=1, encoder="hashing:8", lexical=LEXICAL)
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)
    everything = shard.fetch(list(range(60)), with_vectors=True)
    assert everything.vectors is not None
    vector = everything.vectors[[7]]
    modes: Sequence[Any] = ["hybrid", "dense", "lexical"]
    found = shard.search([ShardQuery("otter river", vector[0], mode) for mode in modes], 5, False)
    dense, lexical = (found.by_retriever[name] for name in ("dense", "lexical"))
    words = shard.search([ShardQuery("otter river", None, "lexical")], 60, False).by_retriever["lexical"]
    by_words = dict(zip(words.rows[0].tolist(), words.scores[0].tolist(), strict=True))
    expected = [by_words.get(row, 0.0) for row in dense.rows[0].tolist()]
    assert dense.other_scores["lexical"][0].tolist() == expected
    cosines = everything.vectors[lexical.rows[0]] @ vector[0]
    np.testing.assert_allclose(lexical.other_scores["dense"][0], cosines, atol=1e-6)
    assert [len(ids) for ids in dense.ids] == [5, 5, 0]
    assert [len(ids) for ids in lexical.ids] == [5, 0, 5]
    assert np.isneginf(dense.other_scores["lexical"][1]).all()
    assert lexical.rows[0].tolist() == lexical.rows[2].tolist() == words.rows[0, :5].tolist()


@pytest.mark.parametrize("limit", [3, 50])
def test_words_are_found_among_what_a_filter_selects(tmp_path: Path, limit: int) -> None:
    corpus = [Passage(one.id, one.text, metadata={"n": number}) for number, one in enumerate(content(60))]
    manifest = publish(tmp_path / "root", "v1", corpus, shards=1, encoder="hashing:8", lexical=LEXICAL)
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)
    modes: list[Any] = ["lexical", "hybrid", "hybrid"]
    queries = [ShardQuery("otter river", np.full(8, 8**-0.5, np.float32), mode) for mode in modes]
    everything = shard.search(queries, 60, False).by_retriever["lexical"]
    trees = [Compare("n", "lt", limit), Compare("n", "lt", limit), None]
    found = shard.search([replace(query, filter=tree) for query, tree in zip(queries, trees, strict=True)], 60, False)
    dense, lexical = (found.by_retriever[name] for name in ("dense", "lexical"))
    expected = [row for row in everything.rows[0].tolist() if 0 <= row < limit]
    assert lexical.rows[0, : len(expected)].tolist() == lexical.rows[1, : len(expected)].tolist() == expected
    assert [len(ids) for ids in lexical.ids] == [len(expected), len(expected), len(everything.ids[0])]
    assert [len(ids) for ids in dense.ids] == [0, limit, 60]
    assert found.matches == [limit, limit, None]


def test_an_index_that_cannot_give_vectors_back_answers_hybrid_queries_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(tmp_path / "root", "v1", content(60), shards=1, encoder="hashing:8", lexical=LEXICAL)
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)

    def refuse(rows: object) -> None:
        raise InvalidArgument("cannot give vectors back")

    monkeypatch.setattr(shard._index, "vectors", refuse)
    found = shard.search([ShardQuery("otter", np.full(8, 8**-0.5, np.float32), "hybrid")], 5, False)
    dense, lexical = (found.by_retriever[name] for name in ("dense", "lexical"))
    assert lexical.other_scores["dense"][0].tolist() == [dense.scores[0, -1]] * 5


def test_words_need_a_lexical_index(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", content(9), shards=1, encoder="hashing:8")
    shard = Shard.open(Storage(str(tmp_path / "root")), manifest, 0, cache=None, threads=1)
    with pytest.raises(InvalidArgument, match="no lexical index; build it with --lexical"):
        shard.search([ShardQuery("otter", None, "lexical")], 5, False)


@pytest.mark.parametrize("name", writer.FILES)
def test_a_damaged_lexical_file_is_named(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    manifest = publish(root, "v1", content(20), shards=1, encoder="hashing:8", lexical=LEXICAL)
    file = root / layout.shard_dir("v1", 0) / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptIndex, match=str(file)):
        Shard.open(Storage(str(root)), manifest, 0, cache=None, threads=1)
    for damage in (b"", whole[: len(whole) // 2]):
        file.write_bytes(damage)
        with pytest.raises(CorruptIndex, match="activate another version"):
            Shard.open(Storage(str(root)), manifest, 0, cache=None, threads=1, verify=False)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (layout.LEXICAL_ROWS, lambda rows: np.where(np.arange(len(rows)) == 5, 20, rows).astype(np.int32)),
        (layout.LEXICAL_ROWS, lambda rows: np.where(np.arange(len(rows)) == 5, -1, rows).astype(np.int32)),
        (layout.LEXICAL_ROWS, lambda rows: rows.astype(np.int64)),
        (
            layout.LEXICAL_SCORES,
            lambda scores: np.where(np.arange(len(scores)) == 5, np.nan, scores).astype(np.float32),
        ),
        (layout.LEXICAL_SCORES, lambda scores: scores.astype(np.float16)),
        (layout.LEXICAL_OFFSETS, lambda offsets: np.concatenate([offsets[:1], offsets[:0:-1][1:], offsets[-1:]])),
        (layout.LEXICAL_OFFSETS, lambda offsets: np.concatenate([[-(2**40)], offsets[1:]])),
        (layout.LEXICAL_LENGTHS, lambda lengths: lengths[1:]),
        (layout.LEXICAL_LENGTHS, lambda lengths: lengths - lengths.max() - 1),
        (layout.LEXICAL_LENGTHS, lambda lengths: lengths.astype(np.int64)),
        (layout.LEXICAL_COUNTS, lambda counts: counts[1:]),
        (layout.LEXICAL_COUNTS, lambda counts: counts - counts),
        (layout.LEXICAL_COUNTS, lambda counts: counts.astype(np.int16)),
    ],
)
def test_numbers_that_lead_out_of_the_lexical_index_are_refused(tmp_path: Path, name: str, change: Any) -> None:
    root = tmp_path / "root"
    manifest = publish(root, "v1", content(20), shards=1, encoder="hashing:8", lexical=LEXICAL)
    file = root / layout.shard_dir("v1", 0) / name
    np.save(file, change(np.load(file)))
    with pytest.raises(CorruptIndex, match="does not fit together"):
        Shard.open(Storage(str(root)), manifest, 0, cache=None, threads=1, verify=False)


def test_an_index_of_another_analyser_is_refused(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", content(9), shards=1, encoder="hashing:8", lexical=PLAIN)
    assert manifest.lexical is not None
    other = manifest.model_copy(update={"lexical": manifest.lexical.model_copy(update={"analyzer": "unicode-9"})})
    with pytest.raises(Conflict, match=r"analyser unicode-9, this Shoal has unicode-1; build it again"):
        Shard.open(Storage(str(tmp_path / "root")), other, 0, cache=None, threads=1)


def test_an_empty_shard_is_written_and_searched(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "root", "v1", [Passage("a", "otter")], shards=2, encoder="hashing:8", lexical=LEXICAL)
    found = answers(tmp_path / "root", manifest, 3)
    assert [[candidate.id for candidate in candidates] for candidates in found[:2]] == [["a"], []]


def test_counts_of_shards_add_up_to_those_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_BATCH", 4)
    texts = [["b a", "a a", ""], ["c ü"], [], ["z b", "日本語"]]
    storage = Storage(str(tmp_path))
    for number, part in enumerate(texts):
        batch = to_batch([Passage(str(place), text) for place, text in enumerate(part)])
        count_terms([batch], Analyzer(PLAIN), tmp_path / f"{number}.arrow")
    merge_terms(storage, [f"{number}.arrow" for number in range(4)], tmp_path / "corpus.arrow")
    totals, found, numbers = read_terms(storage, "corpus.arrow")
    assert totals == Totals(passages=6, length=10)
    assert dict(zip(found.to_pylist(), numbers.tolist(), strict=True)) == {
        "a": 2, "b": 2, "c": 1, "z": 1, "ü": 1, "日本": 1, "本語": 1,
    }  # fmt: skip
    assert found.to_pylist() == sorted(found.to_pylist())
    asked = pa.array(["b", "nothing", "日本"], pa.large_string())
    assert look_up(storage, "corpus.arrow", asked)[1].tolist() == [2, 0, 1]


@pytest.mark.parametrize(("repetitions", "kind"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_lengths_and_counts_are_those_of_the_texts(tmp_path: Path, repetitions: int, kind: type) -> None:
    texts = ["newt otter newt", "", "otter " * repetitions, "heron"]
    batch = to_batch([Passage(str(number), text) for number, text in enumerate(texts)])
    counted = LexicalTerms(tmp_path / "terms", [batch], PLAIN)
    folder = tmp_path / "shard"
    # Two blocks, of which the second one has the text that needs more than two bytes.
    assert len(list(counted.writer(folder, 0).tee([(batch.slice(0, 2), 1), (batch.slice(2), 2)]))) == 2
    assert np.load(folder / layout.LEXICAL_LENGTHS).tolist() == [3, 0, repetitions, 1]
    counts = np.load(folder / layout.LEXICAL_COUNTS)
    assert counts.dtype == kind
    # Terms ascend: heron, newt, otter.
    assert np.load(folder / layout.LEXICAL_ROWS).tolist() == [3, 0, 0, 2]
    assert counts.tolist() == [1, 2, 1, repetitions]
    paths = {name: folder / name for name in writer.FILES}
    assert scores_of(LexicalIndex(paths, 4, counted.info()).lists("otter"), np.array([2])) > 0


def test_a_version_from_before_counts_were_kept_is_searched_as_ever(tmp_path: Path) -> None:
    root = tmp_path / "root"
    manifest = publish(root, "v1", content(40), shards=1, encoder="hashing:8", lexical=LEXICAL)
    before = answers(root, manifest, 9)
    lacking = (layout.LEXICAL_LENGTHS, layout.LEXICAL_COUNTS)
    for name in lacking:
        (root / layout.shard_dir("v1", 0) / name).unlink()
    files = [file for file in manifest.shards[0].files if not file.path.endswith(lacking)]
    old = manifest.model_copy(update={"shards": [manifest.shards[0].model_copy(update={"files": files})]})
    assert answers(root, old, 9) == before


def test_passages_that_were_not_counted_are_noticed(tmp_path: Path) -> None:
    batch = to_batch([Passage("a", "otter"), Passage("b", "otter newt")])
    counted = LexicalTerms(tmp_path / "terms", [batch], PLAIN)
    made = counted.writer(tmp_path / "shard", 0)
    with pytest.raises(ValueError, match="not those whose terms were counted"):
        list(made.tee([(batch.slice(0, 1), None)]))


def test_the_space_of_a_lexical_index_is_taken_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing through a mapping on a full disk would end the process."""

    def full(descriptor: int, offset: int, length: int) -> None:
        assert (offset, length) == (0, os.fstat(descriptor).st_size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    counted = LexicalTerms(tmp_path / "terms", [to_batch([Passage("a", "otter")])], PLAIN)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as error:
        counted.writer(tmp_path / "shard", 0)
    assert error.value.errno == errno.ENOSPC
