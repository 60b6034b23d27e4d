"""Words of a query that no passage holds, taken for those that were meant.

A word is looked for among all that are one slip away: two letters that stand next to each other swapped, one too many,
another in its place, or one too few (Damerau 1964, "A technique for computer detection and correction of spelling
errors": four of five misspelt words). It is taken for the one whose term most passages of the corpus hold. Slips are
made in the word as it was typed and not in its stem, which a slip near the end of a word changes beyond recognition.

Terms are counted over the corpus as it is now, so that shards and writes make no difference.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from shoal.lexical.analyzer import is_unspaced
from shoal.lexical.live_statistics import LiveStatistics
from shoal.records import Spelling

MIN_LETTERS, MAX_LETTERS = 4, 32
"""Letters of a word that is corrected: of a shorter one too many others are one slip away."""
MAX_WORDS = 8
"""Words of a query that are corrected at most, its first ones: each takes a millisecond or two."""
MAX_NEIGHBOURS = 20_000
"""Words one slip away, at most; in a script of so many letters that a word has more, it is left as it is."""


class Speller:
    """Corrects queries. Safe for concurrent calls.

    Args:
        statistics: Of the corpus.
    """

    def __init__(self, statistics: LiveStatistics) -> None:
        self._statistics = statistics
        self._analyzer = statistics.analyzer
        self._scripts: tuple[int, Mapping[str, Sequence[str]]] = (-1, MappingProxyType({}))
        """How many characters the corpus has, and those of each script that are letters."""

    def unknown_words(self, query: str) -> list[str]:
        """Return the different words of a query, folded, that no passage holds and that may be corrected."""
        words = self._analyzer.words(query)
        terms = zip(words, self._analyzer.stems(words), strict=True)
        unknown = [word for word, term in terms if not self._statistics.frequency(term) and _is_correctable(word)]
        return list(dict.fromkeys(unknown))[:MAX_WORDS]

    def correct(self, query: str) -> Spelling:
        """Take words of a query that no passage holds for others, if one slip leads from them to a word of some."""
        words: dict[str, str] = {}
        terms: dict[str, str] = {}
        text = query
        for word in self.unknown_words(query):
            if (found := self._nearest(word)) is not None:
                words[word], terms[word] = found
                text = _replaced(text, word, words[word])
        return Spelling(text, words, terms)

    def _nearest(self, word: str) -> tuple[str, str] | None:
        """The word that a word is taken for, and its term; None for one that is left as it is."""
        letters = self._letters(word)
        if 2 * (len(word) + 1) * (len(letters) + 1) > MAX_NEIGHBOURS:
            return None
        near = list(dict.fromkeys(neighbours(word, letters)))
        if not self._analyzer.stop_words.isdisjoint(near):
            return None  # a slip in a word that does not count
        terms = self._analyzer.stems(near, remember=False)
        frequencies = self._statistics.frequencies(terms)
        if not frequencies:
            return None
        best = min(frequencies, key=lambda term: (-frequencies[term], term))
        return near[terms.index(best)], best

    def _letters(self, word: str) -> Sequence[str]:
        """The letters of the corpus and of stop words in the scripts of a word, ascending."""
        characters = self._statistics.letters.union(*self._analyzer.stop_words)
        if self._scripts[0] != len(characters):
            by_script: dict[str, list[str]] = {}
            for character in sorted(characters):
                if _is_letter(character):
                    by_script.setdefault(_script(character), []).append(character)
            self._scripts = len(characters), by_script
        known = self._scripts[1]
        return sorted({letter for script in set(map(_script, word)) for letter in known.get(script, ())} | set(word))


def neighbours(word: str, letters: Sequence[str]) -> Iterator[str]:
    """Yield all words that are one slip away, some repeatedly, likelier slips first; never the word itself."""
    for place in range(len(word) - 1):
        if word[place] != word[place + 1]:
            yield word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    for place in range(len(word)):
        yield word[:place] + word[place + 1 :]
    for place in range(len(word) + 1):
        before, after = word[:place], word[place:]
        for letter in letters:
            yield before + letter + after
    for place in range(len(word)):
        before, after = word[:place], word[place + 1 :]
        for letter in letters:
            if letter != word[place]:
                yield before + letter + after


def _is_correctable(word: str) -> bool:
    """Whether it looks like a word, and not like a number, a code or a pair of characters."""
    fits = MIN_LETTERS <= len(word) <= MAX_LETTERS
    return fits and all(map(_is_letter, word)) and not is_unspaced(word)


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _script(character: str) -> str:
    """The script of a letter, as its name begins: LATIN SMALL LETTER A."""
    return unicodedata.name(character, "").partition(" ")[0]


def _replaced(text: str, word: str, other: str) -> str:
    """Put another word in the place of a folded one; a text that spells it by other characters stays as it is."""
    return re.sub(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", lambda _: other, text, flags=re.IGNORECASE)
