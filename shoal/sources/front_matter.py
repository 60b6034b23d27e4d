"""Front matter: what stands above the text of a Markdown file about it, in YAML between `---` or in TOML between `+++`.

It is metadata, and no text. A file that only begins with such a line, as with a rule, stays as it is.
"""

import datetime
import re
import tomllib
from typing import Any, NamedTuple

import yaml

from shoal.metadata import LEAST_INTEGER, MOST_INTEGER
from shoal.sources.arrow_values import Unfit

FIELD = "front matter"
"""Name under which front matter that cannot be read is counted among the metadata that are left out."""
TITLE = "title"
"""Field of the title of a document."""
MAX_CHARACTERS = 65_536
"""Characters of front matter, at most: more is text."""
_YAML = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?(?:\n|\Z)", re.DOTALL | re.MULTILINE)
"""A file that begins with YAML, which is the group, between two lines."""
_TOML = re.compile(r"\+\+\+[ \t]*\r?\n(.*?)^\+\+\+[ \t]*\r?(?:\n|\Z)", re.DOTALL | re.MULTILINE)
"""A file that begins with TOML."""
_FAILURES = (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, TypeError, AttributeError)
"""What the parsers raise, PyYAML for tagged values of other kinds and dates that there are none of, too."""


class FrontMatter(NamedTuple):
    """A file of Markdown, taken apart.

    fields: its metadata. title: of the whole, or None. text: the rest, whose lines have the numbers that they have in
    the file, as blank ones stand in the place of what was taken out.
    """

    fields: dict[str, Any]
    title: str | None
    text: str


def read_front_matter(text: str) -> FrontMatter:
    """Take the front matter of a Markdown file out of its text.

    Dates become strings in ISO 8601, and so do integers beyond 64 bits and numbers in lists; nested values stay for
    whoever checks metadata. Front matter that cannot be read stays text, and gives the field FIELD.
    """
    pattern, load = (_TOML, tomllib.loads) if text.startswith("+++") else (_YAML, yaml.safe_load)
    match = pattern.match(text)
    if match is None or match.end() > MAX_CHARACTERS:
        return FrontMatter({}, None, text)
    try:
        loaded = load(match[1]) or {}
        if not isinstance(loaded, dict):  # a rule, and text up to the next one
            return FrontMatter({}, None, text)
        fields = {str(_plain(name)): _value(value) for name, value in loaded.items()}
    except _FAILURES:
        what = "TOML" if pattern is _TOML else "YAML"
        return FrontMatter({FIELD: Unfit(f"it is no {what} and stays text")}, None, text)
    title = None
    if not isinstance(fields.get(TITLE), (list, dict)):
        given = fields.pop(TITLE, None)
        title = None if given is None else str(given)
    rest = text[match.end() :]
    if title is not None and rest.lstrip().partition("\n")[0].rstrip() == f"# {title}":
        title = None  # the headings give it to every passage
    return FrontMatter(fields, title, "\n" * match[0].count("\n") + rest)


def _value(value: object) -> object:
    if isinstance(value, list) and not any(isinstance(item, (list, dict, set)) for item in value):
        return [item if item is None else str(_plain(item)) for item in value]
    return _plain(value)


def _plain(value: object) -> object:
    """A single value as metadata have it. Raises UnicodeEncodeError for an escape that stands for half a character."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if type(value) is int and not LEAST_INTEGER <= value <= MOST_INTEGER:
        return str(value)
    return value
