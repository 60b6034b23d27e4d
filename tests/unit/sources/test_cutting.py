"""Passages of documents: whole sections, code and tables; under which headings, on which page and line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shoal.sources.cutting import Cutter, Piece
from tests.unit.sources.test_structure import PAGES, PARSER, RST

GUIDE = """\
# Guide

Words before.

## Install

Take it from the shelf and put it on the table, then wait.

```
# no heading
make install
```

## Use

### From Python

Call it with the names of all of your fish, one after another.

### From the shell

Say its name. Then wait for what it answers, and be patient.
"""


def cut(text: str, characters: int = 130, name: str = "a.md", overlap: int = 0) -> list[Piece]:
    return Cutter(characters, overlap).pieces(name, text)


def test_a_section_that_fits_is_one_passage() -> None:
    assert cut(GUIDE, 1000) == [Piece(GUIDE.strip(), "Guide", None, 1)]
    assert [(piece.title, piece.text.split("\n")[0], piece.line) for piece in cut(GUIDE)] == [
        ("Guide", "# Guide", 1),
        ("Guide > Install", "## Install", 5),
        ("Guide > Use > From Python", "## Use", 14),
        ("Guide > Use > From the shell", "### From the shell", 20),
    ]


def test_short_sections_share_a_passage_whose_title_is_what_they_have_in_common() -> None:
    text = "# All\n\n## A\n\nshort\n\n## B\n\nshort too\n\n## C\n\n" + "long words " * 9
    assert [(piece.title, piece.text[:4]) for piece in cut(text)] == [("All", "# Al"), ("All > C", "## C")]


def test_what_is_too_long_is_cut_between_its_blocks_and_keeps_its_heading() -> None:
    items = "\n".join(f"- item {number} of the list" for number in range(12))
    pieces = cut(f"# List\n\n{items}\n", 100)
    assert {piece.title for piece in pieces} == {"List"}
    assert [piece.text.count("- item") for piece in pieces] == [4, 4, 4]
    assert pieces[0].text.startswith("# List\n\n- item 0")
    long = cut("# Long\n\n" + "one word and another. " * 20, 100)
    assert long[0].text.startswith("# Long\n\none word")
    assert all(40 < len(piece.text) <= 100 for piece in long)


def test_a_heading_longer_than_a_passage_is_cut_like_anything_else() -> None:
    pieces = cut(f"# {'word ' * 40}\n\nand a text", 60)
    assert all(len(piece.text) <= 60 for piece in pieces)
    assert pieces[-1].text.endswith("and a text")
    assert len(pieces[-1].title or "") == 199


def test_titles_leave_out_their_outer_headings_where_they_get_long() -> None:
    text = "".join(f"{'#' * level} {str(level) * 60}\n\n" for level in range(1, 7)) + "words"
    assert cut(text, 100)[-1].title == " > ".join(str(level) * 60 for level in (4, 5, 6))


def test_pages_end_passages_and_headings_go_on() -> None:
    pages = "# Report\n\nfirst\fsecond\n\n## Part\n\nthird\f\f fourth"
    assert cut(pages, name="A.PDF") == [
        Piece("# Report\n\nfirst", "Report", 1),
        Piece("second\n\n## Part\n\nthird", "Report", 2),
        Piece(" fourth", "Report > Part", 4),
    ]


def test_each_type_is_read_by_its_name() -> None:
    assert cut(RST, 1000, "a.rst")[0].title == "Title"
    assert {piece.title for piece in cut(RST, 100, "a.rst")} >= {"Title", "Title > Section one"}
    assert cut("# One\n\nwords", name="a.txt") == [Piece("# One\n\nwords", None, None, 1)]
    assert cut("# One\n\nwords", name="a.html") == [Piece("# One\n\nwords", "One")]
    assert cut(" \n", name="a.md") == cut("", name="a.txt") == cut("\f\n", name="a.pdf") == []
    assert Cutter(100, 0).pieces("a.md", "## Two\n\nwords", "Own title")[0].title == "Own title > Two"


def test_overlap_is_that_of_one_text() -> None:
    text = " ".join(f"word{number}" for number in range(60))
    first, second, *_ = cut(f"# H\n\n{text}\n\nother", 80, overlap=20)
    assert first.text.startswith("# H\n\nword0")
    assert second.line == 3
    pieces = cut(text, 80, "a.txt", overlap=20)
    assert pieces[1].text.split()[0] in pieces[0].text.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_passages_of_real_pages(page: Path) -> None:
    """No passage without a heading, none that ends on the next one's, no code and no table cut that fits."""
    text = page.read_text()
    pieces = cut(text, 1000, page.name)
    assert all(piece.title and len(piece.text) <= 1000 for piece in pieces)
    assert [piece.text for piece in pieces if re.search(r"\n#{1,6} .*\Z", piece.text)] == []
    lines = text.split("\n")
    for token in PARSER.parse(text):
        if token.type in ("fence", "table_open") and token.map:
            block = "\n".join(lines[slice(*token.map)]).strip()
            assert len(block) > 900 or any(block in piece.text for piece in pieces), block
    for piece in pieces:
        assert piece.line is not None
        assert piece.text.split("\n")[0] in lines[piece.line - 1]
    # Nothing else is in them than in the file.
    assert "".join(text.split()) == "".join("".join(piece.text.split()) for piece in pieces)


def test_an_insertion_changes_the_passages_of_its_section() -> None:
    sections = [f"## Part {number}\n\n" + f"Words of part {number}. " * (10 + number % 7) for number in range(20)]
    before = {(piece.title, piece.text) for piece in cut("# Doc\n\n" + "\n\n".join(sections), 200)}
    sections[1:1] = ["## New\n\nA new section."]
    sections[0] = sections[0].replace("Words", "Other words", 1)
    after = {(piece.title, piece.text) for piece in cut("# Doc\n\n" + "\n\n".join(sections), 200)}
    assert len(before) > 30
    assert {title for title, _ in after - before} <= {"Doc", "Doc > Part 0", "Doc > New"}


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(["", "# ", "## ", "### ", "- ", "    ", "> ", "\f"]),
        st.text("ab é漢。.\n`|", min_size=1, max_size=90),
    ),
    max_size=12,
)


@given(BLOCKS, st.integers(20, 120), st.sampled_from(["a.md", "a.rst", "a.txt", "a.pdf", "a.html"]))
@hypothesis_settings(max_examples=60)
def test_passages_are_bounded_in_order_and_complete(blocks: list[tuple[str, str]], characters: int, name: str) -> None:
    text = "\n\n".join(before + words for before, words in blocks)
    place = 0
    for piece in cut(text, characters, name):
        assert 0 < len(piece.text) <= characters
        assert piece.text.strip()
        start = text.index(piece.text, place)
        assert not text[place:start].strip()
        place = start + len(piece.text)
        if piece.line is not None:
            assert text.count("\n", 0, start) == piece.line - 1
    assert not text[place:].strip()
