"""Front matter of Markdown: metadata and a title, never text, and never a reason to lose a file."""

import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shoal.records import Passage
from shoal.sources.arrow_values import Unfit
from shoal.sources.front_matter import FIELD, MAX_CHARACTERS, FrontMatter, read_front_matter
from tests.support.source_records import Read

YAML = """---
title: Herons
tags: [birds, 2020]
date: 2023-07-19
draft: false
weight: 3
---

# Herons

They wade.

## Nests

In trees.
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_front_matter_is_metadata_and_lines_keep_their_numbers(folder: Path, read: Read, newline: str) -> None:
    (folder / "a.md").write_bytes(YAML.replace("\n", newline).encode())
    (folder / "b.md").write_text('+++\ntitle = "Otters"\nyear = 2021\n+++\n## Food\n\nFish.\n')
    (folder / "c.txt").write_text("---\ntitle: of a text\n---\n")
    first, second, third = read(folder).passages
    fields = {"tags": ["birds", "2020"], "date": "2023-07-19", "draft": False, "weight": 3}
    assert (first.id, first.title) == ("a.md#1", "Herons")
    assert first.metadata == {**fields, "path": "a.md", "_line": 9}
    assert first.text.startswith("# Herons")
    assert second == Passage("b.md#1", "## Food\n\nFish.", "Otters > Food", {"year": 2021, "path": "b.md", "_line": 5})
    assert third.text == "---\ntitle: of a text\n---"


def test_what_cannot_be_read_stays_text_and_is_counted(folder: Path, read: Read) -> None:
    (folder / "a.md").write_text("---\ntitle: [unclosed\n---\nHerons wade.\n")
    (folder / "b.md").write_text("---\nauthor: {name: Ann}\npath: elsewhere\nid: 5\n---\nOtters swim.\n")
    found = read(folder)
    assert [(passage.id, passage.text, passage.metadata) for passage in found.passages] == [
        ("a.md#1", "---\ntitle: [unclosed\n---\nHerons wade.", {"path": "a.md", "_line": 1}),
        ("b.md#1", "Otters swim.", {"path": "b.md", "_line": 6}),
    ]
    assert found.left_out == {"front matter: it is no YAML and stays text": 1, "author: nested": 1}


@pytest.mark.parametrize(
    "text",
    [
        "Herons wade.\n",
        "---\n",
        "---\nA rule, and text.\n\n---\nMore.\n",
        "---\n- a\n- b\n---\nA list.\n",
        "----\ntitle: a\n----\n",
        " ---\ntitle: a\n---\n",
        f"---\ntitle: {'a' * MAX_CHARACTERS}\n---\n",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert read_front_matter(text) == FrontMatter({}, None, text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("18446744073709551616", "18446744073709551616"),
        ("2023-07-19T10:00:00Z", "2023-07-19T10:00:00+00:00"),
        ("[2020-01-01, 1.5]", ["2020-01-01", "1.5"]),
        ("null", None),
        (".nan", pytest.approx(float("nan"), nan_ok=True)),
    ],
)
def test_values_become_such_as_metadata_have(value: str, expected: Any) -> None:
    assert read_front_matter(f"---\nx: {value}\n---\n").fields == {"x": expected}


@pytest.mark.parametrize(
    "value",
    [
        "2023-13-45",
        "[" * 2000,
        "9" * 5000,
        '"\\uD800"',
        "!!python/name:os.system",
        "&a [*a",
        '!!int ""',
        "!!timestamp x",
    ],
)
def test_hostile_values_are_no_front_matter(value: str) -> None:
    text = f"---\nx: {value}\n---\nBody.\n"
    assert read_front_matter(text) == FrontMatter({FIELD: Unfit("it is no YAML and stays text")}, None, text)


@pytest.mark.parametrize(
    ("title", "body", "expected"),
    [("2020", "Text.", "2020"), ("Birds", "# Other\n", "Birds"), ("Birds", "\n# Birds \nText", None), ("", "x", None)],
)
def test_the_title_stands_before_the_headings_unless_they_repeat_it(
    title: str, body: str, expected: str | None
) -> None:
    front = read_front_matter(f"---\ntitle: {title}\n---\n{body}")
    assert (front.title, front.fields) == (expected, {})


SCALARS = st.one_of(st.text("abcé: -#'\"\n", max_size=12), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.dates())


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), st.one_of(SCALARS, st.lists(SCALARS, max_size=3))))
def test_what_was_written_as_yaml_is_read(fields: dict[str, Any]) -> None:
    front = read_front_matter(f"---\n{yaml.safe_dump(fields, allow_unicode=True)}---\nBody")

    def expected(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.date) else value

    assert front.fields == {
        name: [str(expected(item)) for item in value] if isinstance(value, list) else expected(value)
        for name, value in fields.items()
    }
    assert front.text.lstrip("\n") == "Body"


@given(st.text("-+\n: [a]{}\"'&*!#\\u0", max_size=60))
def test_any_text_is_read(text: str) -> None:
    for mark in ("---\n", "+++\n"):
        front = read_front_matter(f"{mark}{text}\n{mark}rest")
        assert front.text.endswith("rest")
        if front.text != f"{mark}{text}\n{mark}rest":
            continue
        assert set(front.fields) <= {FIELD}


def test_toml_that_cannot_be_read_stays_text() -> None:
    text = "+++\nx = \n+++\nBody\n"
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads("x = \n")
    assert read_front_matter(text).fields == {FIELD: Unfit("it is no TOML and stays text")}
    assert read_front_matter(text).text == text
