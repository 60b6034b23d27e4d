"""A deterministic, weightless encoder: feature hashing of words and of the trigrams inside them.

Texts that share words, or words with the same stem, get similar vectors, which is enough for tests, for trials and for
measuring everything around a model. Each word, and each of its byte trigrams, adds +1 or -1 to one dimension
(Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"); a text's vector is the normalised sum
over its words. Hashes are XORs of random table entries (tabulation hashing, Zobrist 1970). All sums are exact, so a
text has the same vector in every batch, process and machine.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.encoders import TextVectors
from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint
from shoal.records import FloatArray, RowArray
from shoal.settings import EncoderSettings

DIM = 256
"""Dimensions of a vector unless the encoder's name gives them, as hashing:128 does."""
MAX_WORDS = 512
"""Words read of a text unless max_length says otherwise."""
_CHARACTERS_PER_WORD = 32
"""Bounds what is read of a text without any spaces."""
_BLOCK_CHARACTERS = 1 << 17
"""Characters that are hashed together: they keep the working set in the processor's cache."""
_PLACES = 61
"""Rows of the table for the bytes of a word by their place; the last of them serves all later bytes."""

# Random numbers from a digest: NumPy's own generators may change between its versions.
_TABLE: NDArray[np.uint64] = np.frombuffer(
    hashlib.shake_256(b"shoal hashing-v1").digest((_PLACES + 3) * 256 * 8), dtype="<u8"
).reshape(_PLACES + 3, 256)
"""Random 64-bit numbers by place and byte: what a byte of a word is worth."""
_IN_WORD = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
"""Which of the 256 bytes belong to words."""


class HashingEncoder:
    """Implements Encoder and TokenEncoder; a token is a word. Queries and passages are treated alike."""

    def __init__(self, dim: int, max_words: int) -> None:
        self._dim = dim
        self._max_words = max_words
        self.full_texts = 0
        """Texts so far that had as many words as are read, or more."""

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._dim

    def fingerprint(self) -> Fingerprint:
        """Name everything that decides which vector a text gets."""
        return Fingerprint(
            model=f"hashing:{self._dim}",
            weights="hashing-v1",
            dim=self._dim,
            pooling="sum",
            query_prompt="",
            passage_prompt="",
            max_length=self._max_words,
            dtype="float32",
        )

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self.encode_passages(texts)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; the first unit vector for no words."""
        vectors = np.empty((len(texts), self._dim), dtype=np.float32)
        for start, stop in _blocks(texts, self._max_words):
            features = _features(texts[start:stop], self._max_words)
            self.full_texts += features.full
            vectors[start:stop] = _sums(features, features.text, stop - start, self._dim)
        return vectors

    def locate_passage_tokens(self, texts: Sequence[str]) -> list[RowArray]:
        """Find the words of passages in their texts, in input order; a text without words has one token, of nothing."""
        return [_locate_words(text[: _CHARACTERS_PER_WORD * self._max_words], self._max_words) for text in texts]

    def count_query_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the words of whole texts, in input order."""
        cut = _CHARACTERS_PER_WORD * self._max_words
        counts = []
        for text in texts:
            count = _count_words(text)
            if len(text) > cut and _count_words(text[:cut]) < count:
                count = max(count, self._max_words + 1)
            counts.append(count)
        return counts

    def count_passage_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the words of whole texts, in input order."""
        return self.count_query_tokens(texts)

    def encode_query_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode queries and their words, in input order."""
        return self.encode_passage_tokens(texts)

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their words, in input order."""
        encoded = []
        for text, vector in zip(texts, self.encode_passages(texts), strict=True):
            features = _features([text], self._max_words)
            words = int(features.word.max(initial=0)) + 1
            encoded.append(TextVectors(vector, _sums(features, features.word, words, self._dim)))
        return encoded


class _Features(NamedTuple):
    """The f features of some texts, all (f,); `text` and `word` number what each belongs to.

    full: how many of the texts have all the words that are read.
    """

    hash: NDArray[np.uint64]
    text: RowArray
    word: RowArray
    full: int


def load(model: str, settings: EncoderSettings) -> HashingEncoder:
    """Load `hashing` or `hashing:DIM`. Raises InvalidArgument for another name or a dimension outside 1 to 65536."""
    name, _, dim = model.partition(":")
    if name != "hashing" or (dim and not (dim.isascii() and dim.isdigit() and 1 <= int(dim) <= 65536)):
        raise InvalidArgument(
            f"encoder={model!r}: the backend hashing takes `hashing` or `hashing:DIM`, such as hashing:64",
            param="encoder",
        )
    return HashingEncoder(int(dim or DIM), settings.max_length or MAX_WORDS)


def _blocks(texts: Sequence[str], max_words: int) -> Iterator[tuple[int, int]]:
    """Cut texts into runs (start, stop) that bound the memory of one step."""
    start = characters = 0
    for row, text in enumerate(texts):
        characters += min(len(text), _CHARACTERS_PER_WORD * max_words) + 64  # a row of sums takes memory too
        if characters >= _BLOCK_CHARACTERS:
            yield start, row + 1
            start, characters = row + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _count_words(text: str) -> int:
    in_word = _IN_WORD[np.frombuffer(text.lower().encode("utf-8", "replace"), dtype=np.uint8)]
    return int(np.count_nonzero(in_word[1:] & ~in_word[:-1])) + int(in_word[:1].any())


def _locate_words(text: str, max_words: int) -> RowArray:
    """Where the first words of a text begin and end, int64 (t, 2), in characters."""
    in_word = _IN_WORD[np.frombuffer(text.lower().encode("utf-8", "replace") + b" ", dtype=np.uint8)]
    changes = np.flatnonzero(np.diff(in_word, prepend=False))  # from outside to inside and back, in bytes
    # A character may be longer in lower case, and is so in whatever text it stands.
    sizes = [len(character.lower().encode("utf-8", "replace")) for character in text]
    characters = np.searchsorted(np.cumsum([0, *sizes]), changes)
    words = characters.reshape(-1, 2)[:max_words]
    return words if len(words) else np.zeros((1, 2), np.int64)


def _features(texts: Sequence[str], max_words: int) -> _Features:
    cut = _CHARACTERS_PER_WORD * max_words
    encoded = [text[:cut].lower().encode("utf-8", "replace") + b" " for text in texts]
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    in_word = _IN_WORD[data]
    begins = in_word & ~np.concatenate(([False], in_word[:-1]))
    starts = np.flatnonzero(begins)
    if not len(starts):
        return _Features(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), 0)

    text_of_word = np.searchsorted(np.cumsum([len(text) for text in encoded]), starts, side="right")
    kept = np.arange(len(starts)) - np.searchsorted(text_of_word, text_of_word) < max_words

    # Bytes between words count with the word before them (those before the first, with it), and hash to 0.
    word_of_byte = np.maximum(np.cumsum(begins) - 1, 0)
    place = np.clip(np.arange(len(data)) - starts[word_of_byte], 0, _PLACES - 1)
    words = np.bitwise_xor.reduceat(np.where(in_word, _TABLE[place, data], np.uint64(0)), starts)

    first = np.flatnonzero(in_word[:-2] & in_word[1:-1] & in_word[2:])
    first = first[kept[word_of_byte[first]]]
    one, two, three = _TABLE[_PLACES:]
    trigrams = one[data[first]] ^ two[data[first + 1]] ^ three[data[first + 2]]

    word = np.concatenate((np.flatnonzero(kept), word_of_byte[first]))
    full = int(np.count_nonzero(np.bincount(text_of_word) >= max_words))
    return _Features(np.concatenate((words[kept], trigrams)), text_of_word[word], word, full)


def _sums(features: _Features, rows: RowArray, count: int, dim: int) -> FloatArray:
    """Add up features by row and return float32 (count, dim), L2-normalised."""
    sign = 1.0 - 2.0 * (features.hash & np.uint64(1)).astype(np.float64)
    column = ((features.hash >> np.uint64(32)) % np.uint64(dim)).astype(np.int64)
    sums = np.bincount(rows * dim + column, weights=sign, minlength=count * dim).reshape(count, dim)
    sums[~sums.any(axis=1), 0] = 1.0
    unit: FloatArray = (sums / np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, np.newaxis]).astype(np.float32)
    return unit
