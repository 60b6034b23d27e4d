"""Where blocks of Markdown and reStructuredText lie, against the parser of markdown-it where there is one."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from shoal.sources.structure import markdown_blocks, plain_heading, rst_blocks

PAGES = sorted(Path(__file__).parents[3].glob("docs/*.md"))
PARSER = MarkdownIt("commonmark").enable("table")


def shown(text: str, *, rst: bool = False) -> list[str]:
    blocks = rst_blocks(text) if rst else markdown_blocks(text)
    return [f"{block.level} {block.title}" if block.level else text[block.start : block.stop] for block in blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_and_code_are_where_markdown_it_has_them(page: Path) -> None:
    text = page.read_text()
    starts = [0, *(match.end() for match in re.finditer("\n", text)), len(text)]
    tokens = [token for token in PARSER.parse(text) if token.map and token.level == 0]
    headings = [(starts[token.map[0]], int(token.tag[1])) for token in tokens if token.type == "heading_open"]
    blocks = markdown_blocks(text)
    assert [(block.start, block.level) for block in blocks if block.level] == headings
    for token in tokens:
        if token.type in ("fence", "table_open"):
            first, last = starts[token.map[0]], starts[token.map[1]]
            assert any(block.start <= first and last <= block.stop + 1 for block in blocks), text[first:last]


def test_headings_of_both_kinds() -> None:
    text = (
        "# One #\n\nTwo *words*\nand more\n---\npara\n\n####### no heading\n#no heading\n\n## [Link](x.md) `code` {#id}"
    )
    assert shown(text) == ["1 One", "2 Two words and more", "para", "####### no heading\n#no heading", "2 Link code"]


def test_what_stands_in_code_is_no_heading() -> None:
    text = "~~~sh\n# no\n```\n~~~\n- item\n  ```\n  # no\n  ```\n> ````\n> # no\n> ````\n\n```\nnever closed\n# no\n"
    assert [line for line in shown(text) if line[:2] == "1 "] == []
    assert shown(text)[-1] == "```\nnever closed\n# no"


def test_front_matter_items_and_tables() -> None:
    text = "---\ntitle: x\n---\nwords\n| a | b |\n|---|:-:|\n| 1 | 2 |\n\n- one\n  more\n- two\n\n---\n"
    assert shown(text) == [
        "---\ntitle: x\n---",
        "words",
        "| a | b |\n|---|:-:|\n| 1 | 2 |",
        "- one\n  more",
        "- two",
        "---",
    ]


RST = """\
=====
Title
=====

Words about ``code``::

   literal = 1

   more = 2

Section :func:`one <x.one>`
---------------------------
.. note::

   A note.

   Second paragraph.

.. code-block:: python

   # no heading
   x = 1

Words.

+---+---+
| a | b |
+===+===+
| 1 | 2 |
+---+---+

Deeper
~~~~~~

Next
----
- item
- other
"""


def test_restructured_text() -> None:
    assert shown(RST, rst=True) == [
        "1 Title",
        "Words about ``code``::\n\n   literal = 1\n\n   more = 2",
        "2 Section one",
        ".. note::\n\n   A note.\n\n   Second paragraph.",
        ".. code-block:: python\n\n   # no heading\n   x = 1",
        "Words.",
        "+---+---+\n| a | b |\n+===+===+\n| 1 | 2 |\n+---+---+",
        "3 Deeper",
        "2 Next",
        "- item",
        "- other",
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("**Bold** _word_ snake_case", "Bold word snake_case"),
        ("Title¶", "Title"),
        ("![](x.png) A", "A"),
        ("``a``", "a"),
    ],
)
def test_headings_are_read_without_markup(written: str, read: str) -> None:
    assert plain_heading(written) == read


LINES = st.lists(
    st.sampled_from(
        [
            "",
            "words",
            "# One",
            "## Two",
            "---",
            "===",
            "```",
            "~~~",
            "- item",
            "| a | b |",
            "|---|---|",
            "    in",
            ".. x::",
            "> quote",
            "1. item",
            "a::",
            "----",
            "\t",
            "é\r",
        ]
    ),
    max_size=14,
)


@given(LINES, st.booleans())
@hypothesis_settings(max_examples=60)
def test_blocks_leave_out_only_white_space(lines: list[str], rst: bool) -> None:
    text = "\n".join(lines)
    blocks = rst_blocks(text) if rst else markdown_blocks(text)
    place = 0
    for block in blocks:
        assert block.start >= place
        assert not text[place : block.start].strip()
        assert text[block.start : block.stop].strip()
        place = block.stop
    assert not text[place:].strip()


@pytest.mark.parametrize(
    "line", ["#" * 40_000, "# " + " " * 40_000 + "x", "|" + "-" * 40_000, "`" * 40_000, "_" * 40_000]
)
def test_long_lines_are_read_once(line: str) -> None:
    # What looks at a line in ways that grow with its square does not end within the time of a test.
    text = f"{line}\n|\n" * 50
    assert markdown_blocks(text)
    assert rst_blocks(text)
