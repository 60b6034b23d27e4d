"""JSON lines: one JSON object a line, UTF-8, as RFC 8259 has it; blank lines are passed over."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from shoal.sources.lines import Line, Overlong

_MANY_DIGITS = re.compile(rb"[0-9]{19}").search
"""orjson makes floats of integers beyond 64 bits, which changes ids and values; the standard library does not."""


def records(blocks: Iterable[list[Line]]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line, object) or (line, reason why it is none), lines counted from 1."""
    number = 0
    for lines in blocks:
        if not any(lines):  # a block of nothing but line ends
            number += len(lines)
            continue
        for line in lines:
            number += 1
            try:
                exact = isinstance(line, bytes) and _MANY_DIGITS(line)
                # orjson refuses an Overlong like any other bad line.
                record = _second_look(line) if exact else orjson.loads(line)  # type: ignore[arg-type]
            except orjson.JSONDecodeError:
                if isinstance(line, bytes) and not line.strip():
                    continue
                record = _second_look(line)
            if type(record) is not dict:
                record = (
                    record.reason if isinstance(record, _Broken) else f"the line is {_kind(record)}, not a JSON object"
                )
            yield number, record


class _Broken:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _second_look(line: Line) -> Any:
    """Find out what the strict parser refused: NaN and lone surrogates pass here, so that their field can be named.

    Large integers are exact here.
    """
    if isinstance(line, Overlong):
        return _Broken(line.reason)
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return _Broken(f"the line is not valid UTF-8 (byte {error.start + 1})")
    except RecursionError:
        return _Broken("broken JSON: nested too deeply")
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and line.rstrip().endswith(b","):
            return _Broken("broken JSON: a comma ends the line; each line is one object and nothing behind it")
        detail = f"{error.msg}, character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        return _Broken(f"broken JSON: {detail}")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}[type(value)]
