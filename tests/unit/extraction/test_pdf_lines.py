"""Lines of pages, made into paragraphs."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.extraction.pdf_lines import paragraphs

BODY = (
    "Descale the boiler when the lamp that is marked with a drop blinks slowly, or after\n"
    "180 litres of hard water. Use 40 grams of citric acid in one litre of lukewarm water;\n"
    "do not use vinegar because it attacks the seals."
)


def test_a_paragraph_is_one_line_and_headings_items_and_cells_stay() -> None:
    stays = ["2.2 The steps", "- Fill the tank.", "- Press the key.", "Code", "Meaning", "E1", "Tank empty"]
    page = "\n".join(["2 Descaling", "2.1 Before you begin", BODY, *stays])
    (lines,) = paragraphs([page])
    assert lines == ["2 Descaling", "2.1 Before you begin", BODY.replace("\n", " "), *stays]


def test_a_heading_without_a_number_stays() -> None:
    begun = "\n".join(BODY.split("\n")[:2])
    (lines,) = paragraphs([f"{begun}\nWarranty\n{BODY}"])
    assert lines == [begun.replace("\n", " "), "Warranty", BODY.replace("\n", " ")]


def test_a_divided_word_is_one_and_a_compound_keeps_its_hyphen() -> None:
    (lines,) = paragraphs(
        ["the machine was oper-\nated by a well-\nknown smith\n\nthe well-known one, an of\N{SOFT HYPHEN}\nfice"]
    )
    assert lines == ["the machine was operated by a well-known smith", "", "the well-known one, an office"]


def test_letters_that_are_drawn_as_one_are_written_one_by_one() -> None:
    assert paragraphs(["\ufb01nd the e\ufb03cient \ufb02ow"]) == [["find the efficient flow"]]


def test_what_runs_through_all_pages_is_told_once_and_numbers_of_pages_never() -> None:
    said = ["Herring swim in shoals.", "Cod are solitary.", "Eels wander far.", "Rays are flat."]
    pages = [f"Handbook AX-7\n{text}\nPage {number} of 4" for number, text in enumerate(said, 5)]
    assert paragraphs(pages) == [["Handbook AX-7", said[0]], *([text] for text in said[1:])]


def test_what_is_counted_beside_a_word_of_its_own_stays() -> None:
    pages = [f"Question {number}\nWhat is fish {number}?" for number in range(1, 6)]
    assert [lines[0] for lines in paragraphs(pages)] == [f"Question {number}" for number in range(1, 6)]


def test_what_stands_on_two_pages_stays() -> None:
    assert paragraphs(["Fish\nCod.", "Fish\nEel.", "Birds\nTern."])[1] == ["Fish", "Eel."]


def test_the_rest_of_a_sentence_stays_on_its_page() -> None:
    pages = ["Shading is used on reefs but", "not in nurseries. It costs little.\nLarvae settle."]
    assert paragraphs(pages) == [
        ["Shading is used on reefs but not in nurseries."],
        ["It costs little.", "Larvae settle."],
    ]


def test_headings_that_bookmarks_name_are_joined_with_nothing() -> None:
    page = "the herring and\nthe cod\nswim in the sea"
    assert paragraphs([page], [frozenset(["the cod"])]) == [page.split("\n")]


@given(st.lists(st.text("ab- .\nB\u00adé1", max_size=60), max_size=2))
def test_no_letter_is_lost_or_moved(pages: list[str]) -> None:
    def letters(text: str) -> str:
        return "".join(letter for letter in text if letter.isalnum())

    made = paragraphs(pages)
    assert len(made) == len(pages)
    assert letters("".join("".join(lines) for lines in made)) == letters("".join(pages))
