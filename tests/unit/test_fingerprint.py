import pytest

from shoal.errors import InvalidArgument
from shoal.fingerprint import Fingerprint, instructed, instruction_of

QWEN, E5 = "Instruct: find it\nQuery:", "Instruct: find it\nQuery: "
GEMMA = "task: search result | query: "


@pytest.mark.parametrize(
    ("prompt", "instruction", "other"),
    [
        (QWEN, "find it", "Instruct: claims\nQuery:"),
        (E5, "find it", "Instruct: claims\nQuery: "),
        (GEMMA, "search result", "task: claims | query: "),
    ],
)
def test_an_instruction_takes_the_place_of_another(prompt: str, instruction: str, other: str) -> None:
    assert instruction_of(prompt) == instruction
    assert instructed(prompt, "claims") == other
    assert instructed(other, instruction) == prompt


@pytest.mark.parametrize("prompt", ["", "query: ", "Represent this sentence for searching relevant passages: "])
def test_a_prompt_without_an_instruction_takes_none(prompt: str) -> None:
    assert instruction_of(prompt) is None
    with pytest.raises(InvalidArgument, match="takes no instruction"):
        instructed(prompt, "claims")


def test_what_an_instruction_stands_before_cannot_be_in_it() -> None:
    with pytest.raises(InvalidArgument, match="does not hold"):
        instructed(QWEN, "claims\nQuery:")


def test_the_options_of_a_fingerprint_lead_to_it() -> None:
    whole = Fingerprint(
        model="m",
        weights="w",
        dim=8,
        pooling="mean",
        query_prompt=QWEN,
        passage_prompt="",
        max_length=16,
        dtype="float32",
    )
    read = {"encoder": "m", "max_length": 16, "dimensions": 8, "passage_tokens": 0}
    read |= {"sparse_encoder": None, "late_encoder": None}
    assert whole.options == {**read, "query_instruction": "find it"}
    plain = whole.model_copy(update={"query_prompt": "query: "})
    assert plain.options == read
    windowed = plain.model_copy(update={"passage_tokens": 100})
    assert windowed.options == {**read, "passage_tokens": 100}
