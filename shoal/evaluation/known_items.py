"""Known-item queries: judged queries made from the corpus itself, for users who have none.

Each is what somebody might type who remembers a passage and looks for it again: a few of its words, drawn with a
probability that grows with how often the passage has them and how few other passages do (after Azzopardi, de Rijke &
Balog 2007, "Building simulated queries for known-item topics"). The passage is the one relevant answer. That tells a
version that lost something from one that did not; it does not tell how good answers to real questions are.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from shoal.errors import InvalidArgument
from shoal.evaluation.dataset import Dataset
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.indexing.sample import stratified
from shoal.records import Passage

WORDS = 6
"""Words of a query that is made of a passage."""
CHARACTERS = 24
"""Length of a query from a text without spaces: a piece of it."""
_LEAST_WORDS = 3
"""Words that a text needs, so that a query is made of it."""
_SEED = 3
"""Which passages are drawn when there are more than are asked for."""
_WORD = re.compile(r"[^\W_]{2,30}")
"""What counts as a word here."""


def known_items(passages: Sequence[Passage]) -> Dataset:
    """Make one query from each passage that has words; deterministic. Raises InvalidArgument if none has."""
    words = [Counter(word.casefold() for word in _WORD.findall(passage.content)) for passage in passages]
    frequency = Counter(word for counts in words for word in counts)
    queries, judgements = {}, {}
    for number, (passage, counts) in enumerate(zip(passages, words, strict=True)):
        text = _query(passage.content, counts, frequency, len(passages), number)
        if text:
            queries[f"known-{number}"] = text
            judgements[f"known-{number}"] = {passage.id: 1}
    if not queries:
        raise InvalidArgument(
            "no query can be made from the passages of this corpus; give judgements: --dataset DIR, or qrels=DIR of a "
            "gate",
            param="sample_judgements",
        )
    return Dataset("known items", queries, judgements)


def sampled_passages(manifest: Manifest, count: int, read: Callable[[int, int], Passage]) -> list[Passage]:
    """Draw passages from all over a version, the same on every call. read: gives the passage of a shard and a row."""
    ends = np.cumsum([shard.count for shard in manifest.shards])
    chosen = stratified(int(ends[-1]), count, _SEED)
    shards = np.searchsorted(ends, chosen, side="right")
    return [
        read(shard, int(row - (ends[shard] - manifest.shards[shard].count)))
        for shard, row in zip(shards.tolist(), chosen.tolist(), strict=True)
    ]


def known_items_of(storage: Storage, manifest: Manifest, count: int) -> Dataset:
    """Make queries from passages of a version whose root is on this machine's disk.

    Raises InvalidArgument if none can be made or the root is elsewhere, CorruptIndex for files that do not fit.
    """
    from shoal.search.local import open_shards
    from shoal.settings import ServeSettings

    if not storage.is_local:
        raise InvalidArgument(
            f"{storage.place()} is not on this machine's disk; copy the root, or give a dataset", param="dataset"
        )
    shards = open_shards(storage, manifest, ServeSettings(index=storage.uri), None)
    try:
        return known_items(sampled_passages(manifest, count, lambda shard, row: shards[shard].fetch([row]).passages[0]))
    finally:
        for shard in shards:
            shard.close()


def _query(text: str, counts: Counter[str], frequency: Counter[str], passages: int, seed: int) -> str:
    """Some words of a text in the order in which it has them."""
    terms = list(counts)
    if min(len(terms), len(text.split())) < _LEAST_WORDS:  # scripts without spaces have long runs of letters
        start = max(0, (len(text) - CHARACTERS) // 2)
        return text[start : start + CHARACTERS].strip()
    # One more passage than there are: a word that all of them have may be drawn too, but hardly ever is.
    weights = np.array([counts[term] * np.log((passages + 1) / frequency[term]) for term in terms])
    drawn = np.random.default_rng(seed).choice(
        len(terms), min(WORDS, len(terms)), replace=False, p=weights / weights.sum()
    )
    return " ".join(terms[place] for place in sorted(drawn.tolist()))
