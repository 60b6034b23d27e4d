import pytest
from hypothesis import given
from hypothesis import strategies as st

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
