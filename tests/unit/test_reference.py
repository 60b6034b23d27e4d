"""The generated pages of docs/ are what the code gives now."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("reference", FOLDER / "reference.py")
assert SPEC
assert SPEC.loader
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


@pytest.mark.parametrize("page", ["configuration.md", "http.md"])
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert reference.pages()[page] == (FOLDER / page).read_text("utf-8"), "run: python docs/reference.py"


def test_what_a_route_takes_in_its_url_is_described() -> None:
    section = reference.pages()["http.md"].partition("## GET /v1/passages\n")[2].partition("\n## ")[0]
    assert [name for name in ("prefix", "limit", "cursor") if f"| `{name}` |" not in section] == []
