"""The central promise of live writes: what comes and goes is answered as by a fresh build of the same documents.

The fresh build has the same reduction of token vectors. Ids, order and scores are compared after every step, by
vectors, by words, by both, with filters, and by token vectors; scores of words have the same bits.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shoal.index_root import layout
from shoal.index_root.manifest import Manifest
from shoal.lexical.live_statistics import CorpusTerms, LiveStatistics
from shoal.lexical.spelling import Speller
from shoal.records import Passage
from shoal.shard import runs
from shoal.shard.facets import CountValues
from shoal.shard.reader import Shard
from tests.support.live import EVERYTHING, Corpus, late_scores, ranking, vectors_of
from tests.support.long import only_long

WORDS = ("otter", "heron", "newt", "river", "stone", "fish", "quick", "red")
QUERIES = ("otter", "fish river", "quick quick stone otter", "unknown newt")
MISSPELT = ("ottre", "rivr fihs stnoe newt", "hreon herin", "unknown quikc red")
FILTERS: tuple[dict[str, Any], ...] = (
    {"year": {"$gte": 2003}},
    {"year": {"$ne": 2002}},
    {"rank": {"$lt": 2.5}},
    {"rank": 2},
    {"rank": {"$exists": False}},
    {"labels": {"$in": ["a", "c"]}},
    {"$or": [{"year": 2001}, {"labels": "b"}]},
)
"""Of the fields, `year` is in the first version, and the others come with later documents."""
DOCUMENTS = tuple(f"d{number}" for number in range(9))

texts = st.lists(st.sampled_from(WORDS), min_size=0, max_size=6).map(" ".join)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "year": st.integers(2000, 2005),
        "rank": st.one_of(st.integers(0, 4), st.sampled_from([0.5, 2.0, 2.5])),
        "labels": st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True),
    },
)
contents = st.lists(st.tuples(texts, st.sampled_from([None, "river", "red"]), metadata), min_size=1, max_size=3)


def document(name: str, parts: list[tuple[str, str | None, dict[str, Any]]]) -> list[Passage]:
    """Passages of a document; each has a word at least, as a build demands."""
    return [
        Passage(f"{name}#{number}", text or "stone", title, values)
        for number, (text, title, values) in enumerate(parts, 1)
    ]


class Equality(RuleBasedStateMachine):
    """Writes documents at random, and compares everything with a fresh build."""

    @initialize(
        shards=st.integers(1, 3),
        start=st.dictionaries(st.sampled_from(DOCUMENTS[:6]), contents, min_size=1),
    )
    def begin(self, shards: int, start: dict[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="live-"))
        self.corpus = Corpus(self.folder, shards)
        for name, parts in start.items():
            # Only `year` is a field of the first version.
            kept = [(text, title, {k: v for k, v in values.items() if k == "year"}) for text, title, values in parts]
            self.corpus.documents[name] = document(name, kept)
        self.corpus.open()
        self.changed = True

    @rule(writes=st.dictionaries(st.sampled_from(DOCUMENTS), st.one_of(st.none(), contents), min_size=1, max_size=4))
    def write(self, writes: dict[str, Any]) -> None:
        """Write some documents and delete others, in one entry."""
        self.corpus.write({name: document(name, parts) if parts else [] for name, parts in writes.items()})
        self.changed = True

    @rule(
        first=st.sampled_from(DOCUMENTS),
        writes=st.lists(st.tuples(st.sampled_from(DOCUMENTS), st.one_of(st.none(), contents)), min_size=2, max_size=3),
    )
    def write_twice(self, first: str, writes: list[Any]) -> None:
        """Several entries that shards see at once, documents that are written again among them."""
        for name, parts in [*writes, (first, [("otter heron", None, {})])]:
            entry = self.corpus.entry({name: document(name, parts) if parts else []})
            self.corpus.statistics.apply([entry])
            # A writer has applied what was before; other replicas see several at once.
            for shard in self.corpus.live:
                shard.apply([entry])
        self.changed = True

    @rule()
    def restart(self) -> None:
        """Open everything anew, as a server that starts: entries are replayed together."""
        self.corpus.restart()
        self.changed = True

    @invariant()
    def equal(self) -> None:
        if getattr(self, "changed", False):
            compare(self.corpus)
            self.changed = False

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


def compare(corpus: Corpus) -> None:
    """Compare live shards with a fresh build. Raises AssertionError."""
    shards, manifest = corpus.fresh()
    live = corpus.live
    ids = sorted(passage.id for passages in corpus.documents.values() for passage in passages)
    assert corpus.statistics.passages == len(ids) == sum(shard.count for shard in live)
    assert sorted(id_ for shard in live for id_ in shard.ids.list("", None, EVERYTHING)) == ids
    asked = [*ids, "no#1"]
    found, expected = vectors_of(live, asked), vectors_of(shards, asked)
    assert {id_: passage for id_, (passage, _) in found.items()} == {
        id_: passage for id_, (passage, _) in expected.items()
    }
    for id_, (_, vector) in expected.items():
        np.testing.assert_array_equal(found[id_][1], vector)
    types = live[0].fields
    for text in QUERIES:
        for mode in ("dense", "lexical", "hybrid"):
            for top_k in (2, EVERYTHING):
                mine = ranking(live, corpus.query(text, mode, None, types), top_k)  # type: ignore[arg-type]
                assert mine == ranking(shards, corpus.query(text, mode, None, {}), top_k)  # type: ignore[arg-type]
        query = corpus.query(text, "dense", None, {})
        scores, theirs = (late_scores(some, query, corpus.tokens(text)) for some in (live, shards))
        assert scores == pytest.approx(theirs, abs=1e-6)
    compare_spelling(corpus, shards, manifest)
    for condition in FILTERS:
        if not named(condition) <= manifest.fields.keys() or not named(condition) <= types.keys():
            continue  # no passage that is there has the field
        mine = ranking(live, corpus.query("otter", "hybrid", condition, types), 3)
        assert mine == ranking(shards, corpus.query("otter", "hybrid", condition, manifest.fields), 3)
    for name in manifest.fields.keys() & types.keys():
        assert counted(live, name) == counted(shards, name)


def compare_spelling(corpus: Corpus, shards: list[Shard], manifest: Manifest) -> None:
    """Compare what misspelt words are taken for, and find. Raises AssertionError."""
    terms = CorpusTerms(corpus.folder / f"{corpus.builds}" / layout.corpus_terms_of(manifest.version))
    fresh = LiveStatistics(terms, corpus.analyzer)
    for text in MISSPELT:
        spelling = Speller(corpus.statistics).correct(text)
        assert spelling == Speller(fresh).correct(text)
        mine, theirs = (one.of_query(text, spelling.terms) for one in (corpus.statistics, fresh))
        assert mine == theirs
        query = replace(corpus.query(text, "lexical", None, {}), statistics=mine)
        assert ranking(corpus.live, query, EVERYTHING) == ranking(shards, query, EVERYTHING)


def named(condition: dict[str, Any]) -> set[str]:
    return {
        name for key, part in condition.items() for name in ([key] if key[0] != "$" else [n for p in part for n in p])
    }


def counted(shards: Any, name: str) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for shard in shards:
        (values,) = CountValues((name,), None, 1000).answer(shard)
        assert values is not None
        for value, count in values.items():
            counts[value] = counts.get(value, 0) + count
    return counts


def test_live_shards_answer_as_a_fresh_build() -> None:
    bounds = settings(
        max_examples=4,
        stateful_step_count=4,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    run_state_machine_as_test(Equality, settings=bounds)  # type: ignore[no-untyped-call]


def test_runs_that_lie_in_files_answer_as_a_fresh_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FILE_ROWS", 3)
    monkeypatch.setattr(runs, "CLASS_ROWS", 2)
    corpus = Corpus(tmp_path, 1)
    corpus.documents["d0"] = document("d0", [("otter fish", None, {"year": 2001})])
    corpus.open()
    for number in range(1, 6):
        texts = [
            ("otter river", "red", {"year": 2000 + number, "rank": number / 2}),
            ("heron", None, {"labels": ["a"]}),
        ]
        corpus.write({f"d{number}": document(f"d{number}", texts), f"d{number - 2}": []})
    (shard,) = corpus.live
    in_files = [segment for segment in shard.parts()[1:] if segment[0].path(layout.PASSAGES) is not None]
    assert in_files
    compare(corpus)


@only_long
def test_live_shards_answer_as_a_fresh_build_over_thousands_of_steps() -> None:
    bounds = settings(max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Equality, settings=bounds)  # type: ignore[no-untyped-call]
