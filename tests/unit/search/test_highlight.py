"""The best sentence of a text: where sentences lie, and which of them is chosen."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import Highlight
from shoal.search.highlight import MAX_CHARACTERS, highlight, sentences
from tests.support.shaping import opened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One fish. Two fish! Red?  Blue", ["One fish.", "Two fish!", "Red?", "Blue"]),
        ("It costs 3.50 in v1.2.3 today. Yes", ["It costs 3.50 in v1.2.3 today.", "Yes"]),
        ('He said "stop." Then (so.) he went...', ['He said "stop."', "Then (so.)", "he went..."]),
        ("# Heading\n\nA line\nand another.", ["# Heading", "A line", "and another."]),
        ("\u9b5a\u306f\u7720\u308b\u3002\u9ce5\u306f\uff1f", ["\u9b5a\u306f\u7720\u308b\u3002", "\u9ce5\u306f\uff1f"]),
        ("   \n \n", []),
        ("", []),
    ],
)
def test_texts_are_cut_into_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(text=st.text(alphabet=st.sampled_from("ab .!?\n\u3002\U0001f41f"), max_size=2000))
def test_sentences_hold_all_of_a_text_but_blanks_in_order(text: str) -> None:
    spans = list(sentences(text))
    assert "".join(re.sub(r"\s", "", text[start:end]) for start, end in spans) == re.sub(r"\s", "", text)
    assert all(start < end <= start + MAX_CHARACTERS for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


def test_the_sentence_with_most_words_of_the_query_is_chosen_rare_ones_first() -> None:
    texts = [
        "Corals are animals. Corals survive bleaching by new algae. The end.",
        "Corals live long. Corals are old. Some bleach.",
        "Nothing about it.",
    ]
    found = highlight("how do corals survive the bleaching", texts, None, 1000)
    assert found == [
        Highlight("Corals survive bleaching by new algae.", 20, 58),
        Highlight("Some bleach.", 34, 46),  # rarer than corals
        None,
    ]


def test_stop_words_choose_nothing_and_of_equal_sentences_the_first_is_chosen() -> None:
    assert highlight("of the", ["Of the fish?"], None, 1000) == [None]
    assert highlight("fish", ["A fish. Another fish."], None, 1000) == [Highlight("A fish.", 0, 7)]
    assert highlight("fish", ["Some text. A fish."], None, 10) == [None]


@pytest.mark.parametrize("signs", ["." * 400_000, '."' * 200_000, "." + '"' * 400_000, "?!\u2026" * 130_000])
def test_signs_without_end_are_read_once(signs: str) -> None:
    """Read anew from each of them, this takes hours, and whoever writes a passage stops the server that shows it."""
    found = highlight("quokka", [f"A quokka {signs}"], None, len(signs) + 100)
    assert found[0] is not None
    assert found[0].start == 0


def test_a_sentence_lies_where_it_says(tmp_path: Path) -> None:
    with opened(tmp_path) as index:
        results = index.search("black otter", highlight=True, top_n=20, group_by={"field": "$document"}).results
        assert any(result.highlight for result in results)
        for result in results:
            if result.highlight:
                assert result.text is not None
                assert result.text[result.highlight.start : result.highlight.end] == result.highlight.text
                assert {"black", "otter"} & set(result.highlight.text.split())
        assert all(result.highlight is None for result in index.search("black otter").results)
