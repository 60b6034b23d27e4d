"""From a text to its terms, for passages and queries alike.

1. Unicode NFKC and full case folding: `Ｓｔｒａßｅ` is `strasse`.
2. Words: runs of letters, marks and digits. The marks belong to them, or Hindi and Thai would fall apart.
3. Scripts that are written without spaces, and Korean: runs of them become overlapping pairs of characters as readers
   see them (grapheme clusters), a lone one stays: the way of Lucene's CJKBigramFilter, here also for Thai, Lao, Khmer
   and Burmese.
4. Stop words of the language are left out (lists of bm25s), the rest is stemmed (Snowball).
"""

import importlib.util
import runpy
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import local
from typing import Any

import regex

from shoal.errors import InvalidArgument
from shoal.settings import AnalyzerSettings

NAME = "unicode-1"
"""Written into the manifest: an index is searched with the analyser that it was built with, or not at all."""
NO_LANGUAGE = "none"
"""The language of an analyser that stems nothing."""
LONGEST = 128
"""Characters of a term; a longer word, such as encoded data, is cut."""
_UNSPACED = "Han|Hiragana|Katakana|Hangul|Bopomofo|Thai|Lao|Khmer|Myanmar"
"""Scripts that put no spaces between words."""
_WORDS = regex.compile(r"[^\W_]+")
"""Runs of letters and digits, in texts of ASCII alone."""
_SCRIPTS = "".join(rf"\p{{scx={script}}}" for script in _UNSPACED.split("|"))
"""These scripts, as a part of a character class."""
_RUNS = regex.compile(rf"(?V1)(?P<unspaced>[\w&&[{_SCRIPTS}]]+)|[\w--[{_SCRIPTS}]]+")
"""Runs of letters and digits, apart by whether their script has spaces."""
_UNSPACED_CHARACTER = regex.compile(rf"(?V1)[{_SCRIPTS}]")
"""One character of these scripts."""
_CHARACTERS = regex.compile(r"\X")
"""What a reader takes for one character (a grapheme cluster)."""


class Analyzer:
    """Cuts texts into terms. Safe for concurrent calls.

    Raises InvalidArgument for a language that Snowball does not know.
    """

    def __init__(self, settings: AnalyzerSettings) -> None:
        self._language = settings.lexical_language.lower()
        if self._language not in languages():
            raise InvalidArgument(
                f"there is no stemmer for {settings.lexical_language!r}: use {NO_LANGUAGE}, which neither stems nor "
                f"leaves out words, or one of {', '.join(languages()[1:])}",
                param="lexical_language",
            )
        self.stop_words = _stopwords(self._language) if settings.lexical_stopwords else frozenset()
        """Words, folded, that are left out."""
        # A Snowball stemmer is not re-entrant: every thread has its own.
        self._stemmers = local()

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in their order, repeated as they are."""
        return self.stems(self.words(text))

    def words(self, text: str) -> list[str]:
        """Return the words of a text that count, folded, in their order: one for each of its terms."""
        return [word for word in _words(text) if word not in self.stop_words]

    def stems(self, words: list[str], *, remember: bool = True) -> list[str]:
        """Return the term of each of some folded words.

        Args:
            words: Folded.
            remember: Whether some may come again. Of thousands that do not, remembering takes longer than stemming.
        """
        if self._language == NO_LANGUAGE:
            return words
        name = "remembering" if remember else "forgetting"
        stemmer = getattr(self._stemmers, name, None)
        if stemmer is None:
            import Stemmer

            stemmer = Stemmer.Stemmer(self._language) if remember else Stemmer.Stemmer(self._language, 0)
            setattr(self._stemmers, name, stemmer)
        stems: list[str] = stemmer.stemWords(words)
        return stems


@cache
def languages() -> list[str]:
    """Values of the setting `lexical_language`."""
    import Stemmer

    return [NO_LANGUAGE, *sorted(Stemmer.algorithms())]


def is_unspaced(word: str) -> bool:
    """Whether a word has characters of a script without spaces, of which terms are pairs and no words."""
    return _UNSPACED_CHARACTER.search(word) is not None


def _words(text: str) -> Iterator[str]:
    for word in _WORDS.findall(_folded(text)):
        if word.isascii():
            yield word[:LONGEST]
            continue
        for run in _RUNS.finditer(word):
            if run["unspaced"] is None:
                yield run[0][:LONGEST]
            else:
                characters = _CHARACTERS.findall(run[0])
                yield from map("".join, pairwise(characters)) if len(characters) > 1 else characters


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding may undo the normal form, so it is made again: Unicode's toNFKC_Casefold but for ignorable characters.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def _stopwords(language: str) -> frozenset[str]:
    name = {"english": "EN"}.get(language, language.upper())
    listed = _stopword_lists().get(f"STOPWORDS_{name}", ())
    return frozenset(word for entry in listed for word in _words(entry))


@cache
def _stopword_lists() -> dict[str, Any]:
    """The lists of bm25s by their names there, from their file alone: the package imports SciPy, which takes 0.2 s."""
    package = importlib.util.find_spec("bm25s")
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'bm25s'", name="bm25s")
    return runpy.run_path(str(Path(package.submodule_search_locations[0]) / "stopwords.py"))
