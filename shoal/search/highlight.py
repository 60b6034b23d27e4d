"""The sentence of a passage that best matches a query by its words, stop words left out."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from shoal.index_root.manifest import LexicalInfo
from shoal.records import Highlight
from shoal.settings import AnalyzerSettings, LexicalSettings

if TYPE_CHECKING:
    from shoal.lexical.analyzer import Analyzer

MAX_CHARACTERS = 400
"""Characters of a sentence at most; a longer one is cut at spaces."""
_ENDS = re.compile(r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019\u00bb)\]]*+(?=\s)|[\u3002\uff01\uff1f]+|\n")
"""Where a sentence ends: behind its signs, or with its line. It reads no run of signs twice, however long it is."""


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the sentences of a text begin and end, in characters, without the blanks around them."""
    start = 0
    for end in [*(match.end() for match in _ENDS.finditer(text)), len(text)]:
        while start < end:
            stop = end
            if end - start > MAX_CHARACTERS:
                space = text.rfind(" ", start + 1, start + MAX_CHARACTERS)
                stop = space if space > start else start + MAX_CHARACTERS
            part = text[start:stop]
            if bare := part.strip():
                first = start + len(part) - len(part.lstrip())
                yield first, first + len(bare)
            start = stop


def highlight(
    query: str, texts: Sequence[str], lexical: LexicalInfo | None, max_characters: int
) -> list[Highlight | None]:
    """Choose the best sentence of each text.

    That is the one with most words of the query, each the more the fewer sentences of all the texts have it; of equal
    ones the first. None for a text that has no word of the query.

    Args:
        query: What was asked.
        texts: Of the passages of one answer.
        lexical: How words are cut; None for English.
        max_characters: Of each text that are looked at.
    """
    terms = _analyzer(lexical.settings if lexical else LexicalSettings()).terms
    wanted = set(terms(query))
    if not wanted:
        return [None] * len(texts)
    cut = [list(sentences(text[:max_characters])) for text in texts]
    words = [
        [wanted.intersection(terms(text[start:end])) for start, end in spans]
        for text, spans in zip(texts, cut, strict=True)
    ]
    frequency = Counter(word for spans in words for found in spans for word in found)
    total = sum(map(len, cut))
    weights = {word: math.log1p(total / count) for word, count in frequency.items()}
    chosen: list[Highlight | None] = []
    for text, spans, found in zip(texts, cut, words, strict=True):
        scores = [sum(weights[word] for word in sorted(words_here)) for words_here in found]
        if not any(scores):
            chosen.append(None)
            continue
        start, end = spans[scores.index(max(scores))]
        chosen.append(Highlight(text[start:end], start, end))
    return chosen


@lru_cache(maxsize=8)
def _analyzer_of(language: str, stopwords: bool) -> "Analyzer":
    from shoal.lexical.analyzer import Analyzer  # most searches do without

    return Analyzer(AnalyzerSettings(lexical_language=language, lexical_stopwords=stopwords))


def _analyzer(settings: AnalyzerSettings) -> "Analyzer":
    return _analyzer_of(settings.lexical_language, settings.lexical_stopwords)
