import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter

from shoal.sources.chunking import Chunker

PROSE = "Herring swim in shoals. A shoal may hold millions.\n\nCod are solitary. They hunt at night.\n\nEels migrate."


def test_short_texts_stay_whole() -> None:
    assert Chunker(1000).chunks(PROSE) == [PROSE]


def test_blank_texts_give_nothing() -> None:
    assert Chunker(50).chunks("") == []
    assert Chunker(50).chunks(" \n\t ") == []


def test_texts_are_cut_at_paragraphs_first() -> None:
    assert Chunker(60).chunks(PROSE) == [
        "Herring swim in shoals. A shoal may hold millions.",
        "Cod are solitary. They hunt at night.\n\nEels migrate.",
    ]


def test_markdown_is_cut_at_headings() -> None:
    text = "# One\n\nfirst words\n\n# Two\n\nsecond words\n\nthird words"
    assert Chunker(50).chunks(text, markdown=True)[1].startswith("# Two")


def test_overlap_repeats_the_end_of_the_neighbour() -> None:
    text = " ".join(f"word{number}" for number in range(40))
    first, second, *_ = Chunker(60, overlap=20).chunks(text)
    assert second.split()[0] in first.split()


@given(st.text(max_size=400), st.integers(1, 60), st.booleans())
def test_pieces_are_bounded_in_order_and_complete(text: str, characters: int, markdown: bool) -> None:
    pieces = Chunker(characters).chunks(text, markdown=markdown)
    assert all(0 < len(piece) <= characters and piece.strip() for piece in pieces)
    position = 0
    for piece in pieces:
        found = text.index(piece, position)
        assert not text[position:found].strip()
        position = found + len(piece)
    assert not text[position:].strip()


@pytest.mark.parametrize("characters", [50, 137])
def test_chunking_is_deterministic(characters: int) -> None:
    assert Chunker(characters).chunks(PROSE * 5) == Chunker(characters).chunks(PROSE * 5)


# --- windows: the pieces are those that the splitter makes of the whole text -----------------------------------------

SCRIPTS = [
    "abc ABC 0123 .,;:!? ",
    "äöü ßé „“ … ",
    "漢字仮名交文語海魚珊瑚",
    "คลื่นทะเล",
    "🐟🐠👩‍👩‍👧‍👦é",
    "\n\n\n\r\n\t   ",
]


def whole(text: str, characters: int, overlap: int) -> list[str]:
    """What the splitter makes of all of a text at once, as Shoal 0.1 had it."""
    return [piece for piece in TextSplitter(characters, overlap=overlap).chunks(text) if not piece.isspace()]


def words(seed: int, length: int) -> str:
    """A text of words, sentences, paragraphs, lists and white space, and stretches without any of them."""
    make = random.Random(seed)
    parts: list[str] = []
    size = 0
    while size < length:
        letters = make.choice(SCRIPTS)
        word = "".join(make.choice(letters) for _ in range(make.choice([1, 3, 5, 9, 9, 40, 400])))
        parts.append(word + make.choice(["", " ", " ", " ", ". ", "? ", "\n", "\n\n", "\n\n\n", "。", "\n- ", " " * 9]))
        size += len(parts[-1])
    return "".join(parts)


@pytest.mark.parametrize(("characters", "overlap"), [(50, 0), (137, 0), (1000, 0), (200, 40)])
@pytest.mark.parametrize("seed", range(6))
def test_pieces_are_those_of_the_whole_text(seed: int, characters: int, overlap: int) -> None:
    text = words(seed, 30_000)
    pieces = Chunker(characters, overlap).pieces(text)
    assert [piece.text for piece in pieces] == whole(text, characters, overlap)
    assert all(text[piece.start : piece.start + len(piece.text)] == piece.text for piece in pieces)


@given(st.integers(0, 2**32), st.integers(20, 300), st.integers(0, 19))
@settings(max_examples=10)
def test_pieces_are_those_of_any_whole_text(seed: int, characters: int, overlap: int) -> None:
    text = words(seed, 9_000)
    assert Chunker(characters, overlap).chunks(text) == whole(text, characters, overlap)


@pytest.mark.parametrize("filler", ["漢", "x", " ", "\n", "a ", "\u200b", "no end, "])
def test_the_splitter_is_shown_each_character_a_few_times(filler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It walks to the end of what it is shown for every piece, where nothing ends before that.
    shown: list[int] = []

    class Counting:
        def __init__(self, characters: int, overlap: int) -> None:
            self._splitter = TextSplitter(characters, overlap=overlap)

        def chunk_indices(self, text: str) -> list[tuple[int, str]]:
            shown.append(len(text))
            return self._splitter.chunk_indices(text)

    monkeypatch.setattr("semantic_text_splitter.TextSplitter", Counting)
    text = "A beginning. " + filler * (30_000 // len(filler)) + " An end."
    pieces = Chunker(500).chunks(text)
    assert sum(shown) < 3 * len(text)
    assert max(shown) < 20_000 or filler.isspace()
    assert pieces[0].startswith("A beginning.")
    assert pieces[-1].endswith("An end.")
