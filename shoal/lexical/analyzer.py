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
        self._stopwords = _stopwords(self._language) if settings.lexical_stopwords else frozenset()
        # A Snowball stemmer is not re-entrant: every thread has its own.
        self._stemmers = local()

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in their order, repeated as they are."""
        words = [word for word in _words(text) if word not in self._stopwords]
        return words if self._language == NO_LANGUAGE else self._stem(words)

    def _stem(self, words: list[str]) -> list[str]:
        try:
            stemmer = self._stemmers.snowball
        except AttributeError:
            import Stemmer

            stemmer = self._stemmers.snowball = Stemmer.Stemmer(self._language)
        stems: list[str] = stemmer.stemWords(words)
        return stems


@cache
def languages() -> list[str]:
    """Values of the setting `lexical_language`."""
    import Stemmer

    return [NO_LANGUAGE, *sorted(Stemmer.algorithms())]


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
