"""Passages and queries of numbered words whose frequencies are as skewed as those of a language. Needs NumPy alone.

Half of the words of a passage are drawn from all, as Zipf and Mandelbrot found them, where the ten most frequent ones
are left out as stop words are; the commonest stands in about every fifth passage. The other half is drawn likewise from
the words of one of two hundred topics, which are frequent in its passages and rare elsewhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 300_000
"""Different words."""
TOPICS = 200
TOPIC_WORDS = 5_000
"""Words of a topic, which others have too."""
MEAN_WORDS = 60
"""Words of a passage, about; a tenth has less than a half of them, a tenth more than the double."""
CHUNK = 50_000
"""Passages that are made at once."""
_STOP_WORDS, _TOPIC_STOP_WORDS = 10, 5
"""Ranks that are left out."""
_SPREAD = 104_729
"""A prime, by which the words of a topic lie apart."""


@dataclass(frozen=True, slots=True)
class NumberedPassages:
    """Passages that follow each other.

    words: int64 (n,), their words, one passage after the other.
    lengths: int64 (passages,), how many each has.
    """

    words: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def texts(self) -> Iterator[str]:
        """Yield each passage as a text."""
        start = 0
        for length in self.lengths.tolist():
            yield text_of(self.words[start : start + length].tolist())
            start += length


def text_of(words: Sequence[int]) -> str:
    """Write numbered words with spaces between them."""
    return " ".join(f"w{word}" for word in words)


def chunks(passages: int) -> Iterator[NumberedPassages]:
    """Yield so many passages, the same whenever they are asked for."""
    for number, first in enumerate(range(0, passages, CHUNK)):
        random = np.random.default_rng([7, number])
        count = min(CHUNK, passages - first)
        lengths = np.exp(random.normal(np.log(0.87 * MEAN_WORDS), 0.53, count)).astype(np.int64) + 1
        topics = np.repeat(random.integers(TOPICS, size=count), lengths)
        yield NumberedPassages(_words(random, topics), lengths)


def queries_over(passages: int, count: int, shortest: int = 2, longest: int = 10) -> list[list[int]]:
    """Return queries of different words: three quarters of each are from one passage, the others from any."""
    sample, random = next(chunks(passages)), np.random.default_rng(11)
    ends = np.cumsum(sample.lengths)
    made = []
    for length in random.integers(shortest, longest + 1, count).tolist():
        passage = int(random.integers(len(ends)))
        own = sample.words[ends[passage] - sample.lengths[passage] : ends[passage]]
        chosen = [random.permutation(own)[: length - length // 4], random.choice(sample.words, length // 4)]
        made.append(random.permutation(np.unique(np.concatenate(chosen))).tolist())
    return made


def _words(random: np.random.Generator, topics: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw a word for each of some places, int64 (n,), with the topic of its passage."""
    chance = random.random(len(topics))
    everywhere = _rank(chance, VOCABULARY, _STOP_WORDS)
    of_topic = (topics * VOCABULARY // TOPICS + _rank(chance, TOPIC_WORDS, _TOPIC_STOP_WORDS) * _SPREAD) % VOCABULARY
    words: NDArray[np.int64] = np.where(random.random(len(topics)) < 0.5, everywhere, of_topic)
    return words


def _rank(chance: NDArray[np.float64], words: int, left_out: int) -> NDArray[np.int64]:
    """Ranks of words from 0, each with a share of about 1 / (rank + left_out), from even chances in [0, 1)."""
    return (left_out * ((words + left_out) / left_out) ** chance - left_out).astype(np.int64)
