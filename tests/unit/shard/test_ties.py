"""Passages that score alike: a list is the beginning of every longer one, for any number of shards and in any batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.encoders import load_encoder
from shoal.index_root.storage import Storage
from shoal.modes import RETRIEVERS_OF
from shoal.records import Passage
from shoal.search.fusion import fuse
from shoal.search.merge import merge_results
from shoal.search.shard_client import ShardResult
from shoal.settings import EncoderSettings, LexicalSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.reader import Shard
from shoal.testing.fakes import serve_settings
from tests.support.indexes import publish

MODEL = load_encoder(EncoderSettings(encoder="hashing:16"))
WORDS = LexicalSettings(lexical_language="none")
TEXTS = ("red fish", "fish red", "red fish", "blue fish", "blue blue fish", "heron")
WINDOW = 100

ranked = list[tuple[str, float]]


class Version:
    """Passages as a version of so many shards; `list_of` asks as a server does."""

    def __init__(self, root: Path, content: Sequence[Passage], shards: int) -> None:
        manifest = publish(root, "v1", content, shards=shards, encoder="hashing:16", lexical=WORDS)
        storage = Storage(str(root))
        self.shards = [Shard.open(storage, manifest, n, cache=None, threads=1) for n in range(shards)]

    def lists(self, queries: Sequence[ShardQuery], top_ks: Sequence[int]) -> list[ranked]:
        windows = [
            max(top_k, WINDOW) if query.mode == "hybrid" else top_k
            for query, top_k in zip(queries, top_ks, strict=True)
        ]
        hits = [shard.search(queries, max(windows), with_passages=False) for shard in self.shards]
        lists: list[ranked] = []
        for position, (query, top_k) in enumerate(zip(queries, top_ks, strict=True)):
            results = {number: ShardResult(part, position, 1.0, len(queries)) for number, part in enumerate(hits)}
            rankings = merge_results(results, RETRIEVERS_OF[query.mode], windows[position])
            candidates = fuse(rankings, serve_settings()) if len(rankings) > 1 else next(iter(rankings.values()))
            lists.append([(candidate.id, candidate.score) for candidate in candidates[:top_k]])
        return lists


def asked(text: str, mode: Any) -> ShardQuery:
    vector = None if mode == "lexical" else MODEL.encode_queries([text])[0]
    return ShardQuery(text, vector, mode)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_a_list_is_the_same_at_every_length_for_all_shards_and_in_every_batch(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], random: Any
) -> None:
    names = [f"dup{number:02d}" for number in range(len(texts))]
    random.shuffle(names)
    content = [Passage(name, text) for name, text in zip(names, texts, strict=True)]
    queries = [asked(text, mode) for text in ("fish", "red fish") for mode in ("dense", "lexical", "hybrid")]
    reference: list[ranked] | None = None
    for shards in (1, 3):
        version = Version(tmp_path_factory.mktemp("ties") / "root", content, shards)
        whole = version.lists(queries, [100] * len(queries))
        reference = reference or whole
        assert whole == reference
        for top_k in (1, 5, 20):
            for query, expected in zip(queries, reference, strict=True):
                assert version.lists([query], [top_k]) == [expected[:top_k]]
        lengths = [random.randint(1, 40) for _ in queries]
        for line, expected, length in zip(version.lists(queries, lengths), reference, lengths, strict=True):
            assert line == expected[:length]
        scores = [[score for _, score in line] for line in reference]
        assert scores == [sorted(line, reverse=True) for line in scores]
        assert all(line == sorted(line, key=lambda entry: (-entry[1], entry[0])) for line in reference)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_of_twelve_equal_passages_the_first_by_id_are_found(tmp_path: Path, mode: str) -> None:
    names = [f"dup{number:02d}" for number in (7, 2, 11, 0, 9, 4, 1, 10, 3, 8, 6, 5)]
    content = [*(Passage(name, "red fish") for name in names), Passage("other", "a heron")]
    query = asked("red fish", mode)
    for shards in (1, 3):
        version = Version(tmp_path / str(shards) / "root", content, shards)
        for top_k in (1, 5, 12):
            for batch in ([query], [query] * 5):
                found = version.lists(batch, [top_k] * len(batch))
                assert [[name for name, _ in line] for line in found] == [sorted(names)[:top_k]] * len(batch)
