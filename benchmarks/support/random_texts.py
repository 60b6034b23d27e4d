"""Indexes of passages of random words, made in this process with the encoder that needs no weights."""

import random
from pathlib import Path

import shoal
from shoal.index_root.log import Log
from shoal.index_root.storage import Storage
from shoal.indexing.compaction import compact
from shoal.indexing.empty import create_index
from shoal.settings import CompactSettings, CreateSettings

DIM = 384
"""Dimensions of the vectors."""
WORDS = 60
"""Words of a passage."""
VOCABULARY = 5000
"""Different words."""


def build(root: Path, passages: int) -> None:
    """Make a version of passages of random words."""
    chance = random.Random(7)
    create_index(CreateSettings(index=str(root), encoder=f"hashing:{DIM}"))
    with shoal.open(root, reranker="none") as index:
        index.upsert({"id": f"p{number}", "text": text(chance, WORDS)} for number in range(passages))
    compact(CompactSettings(index=str(root)), Log.open(Storage(str(root))))


def text(chance: random.Random, words: int) -> str:
    """Make a text of random words."""
    return " ".join(f"word{chance.randrange(VOCABULARY)}" for _ in range(words))
