"""Cuts long texts into passages at the largest sensible boundaries: paragraphs, sentences, words."""

from functools import cached_property
from typing import Protocol


class _Splitter(Protocol):
    def chunks(self, text: str) -> list[str]: ...


class Chunker:
    """Cuts texts into pieces of at most `characters` characters, of which neighbours share up to `overlap`.

    Boundaries are those of Unicode and, for Markdown, of its headings and blocks (the semantic-text-splitter package).
    Pieces are never blank, keep their order and lose only white space at their ends. Deterministic.
    """

    def __init__(self, characters: int, overlap: int = 0) -> None:
        self._characters = characters
        self._overlap = overlap

    def chunks(self, text: str, *, markdown: bool = False) -> list[str]:
        """Return the pieces of a text; empty for a blank one."""
        return [chunk for chunk in (self._markdown if markdown else self._plain).chunks(text) if not chunk.isspace()]

    @cached_property
    def _plain(self) -> _Splitter:
        from semantic_text_splitter import TextSplitter

        return TextSplitter(self._characters, overlap=self._overlap)

    @cached_property
    def _markdown(self) -> _Splitter:
        from semantic_text_splitter import MarkdownSplitter

        return MarkdownSplitter(self._characters, overlap=self._overlap)
