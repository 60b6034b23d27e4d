"""Cuts long texts into passages at the largest sensible boundaries: paragraphs, sentences, words.

The splitter looks from the beginning of each piece for the next sentence end, to the end of the text if there is none:
100,000 characters without one took it 8 s. So it is shown a window of the text at a time. What it decides of a piece
depends on little more than the piece itself, so that the pieces are those of the whole text; where two windows meet,
the second one begins with the last piece of the first and has to cut that alike, or begins further back.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple, Protocol

_WINDOW = 8
"""Characters of a window, by those of a piece."""
_LEAST_WINDOW = 4096
"""Characters of a window at least, so that few windows are made where pieces are short."""
_MARGIN = 2
"""Lengths of a piece before the end of a window from which on its pieces are cut again, with what follows in sight."""
_TRIES = 8
"""Pieces before the end of a window from which the next one may begin."""


class TextPiece(NamedTuple):
    """A piece of a text. start: of its first character in the text."""

    start: int
    text: str


class _Splitter(Protocol):
    def chunks(self, text: str) -> list[str]: ...

    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


class Chunker:
    """Cuts texts into pieces of at most `characters` characters, of which neighbours share up to `overlap`.

    Boundaries are those of Unicode and, for Markdown, of its headings and blocks (the semantic-text-splitter package).
    Pieces are never blank, keep their order and lose only white space at their ends. Deterministic. Time grows with
    the length of a text, but for Markdown without sentence ends, where it grows with its square.
    """

    def __init__(self, characters: int, overlap: int = 0) -> None:
        self.characters = characters
        self.overlap = overlap

    def chunks(self, text: str, *, markdown: bool = False) -> list[str]:
        """Return the pieces of a text; empty for a blank one."""
        if markdown:
            return [chunk for chunk in self._markdown.chunks(text) if not chunk.isspace()]
        return [piece.text for piece in self.pieces(text)]

    def pieces(self, text: str) -> list[TextPiece]:
        """Return the pieces of a plain text with their places; empty for a blank one."""
        return [piece for piece in self._windowed(text) if not piece.text.isspace()]

    def _windowed(self, text: str) -> Iterator[TextPiece]:
        usual = max(_WINDOW * self.characters, _LEAST_WINDOW)
        margin = _MARGIN * self.characters
        given: list[TextPiece] = []  # the latest pieces; a window begins with one of them
        back, size = 1, usual
        while True:
            start = given[-back].start if given else 0
            stop = given[-1].start + size if given else size
            cut = [TextPiece(start + place, piece) for place, piece in self._plain.chunk_indices(text[start:stop])]
            if stop < len(text):
                cut = [piece for piece in cut if piece.start + margin <= stop]
            if given and given[-1] not in cut:
                back += 1
                if back > len(given):  # white space without end, perhaps; look at the text from its beginning
                    break
                continue
            fresh = [piece for piece in cut if not given or piece.start > given[-1].start]
            yield from fresh
            if stop >= len(text):
                return
            size = usual if fresh else 2 * size
            given, back = [*given, *fresh][-_TRIES:], 1
        for place, piece in self._plain.chunk_indices(text):
            if place > given[-1].start:
                yield TextPiece(place, piece)

    @cached_property
    def _plain(self) -> _Splitter:
        from semantic_text_splitter import TextSplitter

        return TextSplitter(self.characters, overlap=self.overlap)

    @cached_property
    def _markdown(self) -> _Splitter:
        from semantic_text_splitter import MarkdownSplitter

        return MarkdownSplitter(self.characters, overlap=self.overlap)
