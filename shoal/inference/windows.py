"""Windows of a text that has more tokens than a model reads at once.

Every window begins with the first tokens of the text, which hold its title if it has one. Behind them the windows
follow one another with an overlap. Lengths are shares of what the model reads at once: where it reads 256 tokens, 24
and 200 with a step of 150. Prompt and special tokens frame each window as they frame a text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.inference.network import own_tokens
from shoal.records import RowArray

_HEAD, _WINDOW = 3 / 32, 25 / 32
"""Shares of the tokens that a model reads: the first ones of the text, and those that follow them in each window."""
_STEP = 3 / 4
"""Share of a window that the next one begins behind its beginning."""
_LEAST_SHARE = 8
"""The first tokens of the text take one token in so many of the room in a window at most, however long the prompt."""


class Window(NamedTuple):
    """A part of a text that is read in one go.

    positions: int64 (t,), which tokens of the text, prompt and special tokens included, it has.
    first, end: which of its own tokens, counted from 0, stand for the text, if any do: of a text as many as the model
    reads at once, each in the window in which it is further from the border. With more of them, late interaction
    ranked worse (docs/decisions/0020-windows-begin-as-the-text.md).
    """

    positions: RowArray
    first: int
    end: int


def windows_of(ids: Sequence[int], special: Sequence[int], prompt_length: int, max_length: int) -> list[Window]:
    """Cut the tokens of a text into windows that a model can read.

    Args:
        ids: All tokens, those of the prompt and special ones too.
        special: Tokens that frame a text.
        prompt_length: How many tokens come before the text.
        max_length: Tokens that the model reads at once.
    """
    tokens = np.array([ids], np.int64)
    own = np.flatnonzero(own_tokens(tokens, np.ones_like(tokens), special, prompt_length)[0])
    before, behind = np.arange(own[0]), np.arange(own[-1] + 1, len(ids))
    room = max_length - len(before) - len(behind)
    if len(ids) <= max_length or room < 1:  # a prompt that leaves no room
        return [Window(np.arange(min(len(ids), max_length)), 0, len(own))]
    head = min(int(_HEAD * max_length), room // _LEAST_SHARE)
    length = min(int(_WINDOW * max_length), room - head)
    step = max(1, int(_STEP * length))
    rest = own[head:]
    starts = range(0, max(1, len(rest) - (length - step)), step)
    overlap = length - step
    windows = []
    for start in starts:
        part = rest[start : start + length]
        positions = np.concatenate([before, own[:head], part, behind])
        first = 0 if start == 0 else head + overlap // 2
        is_last = start == starts[-1]
        end = head + len(part) - (0 if is_last else overlap - overlap // 2)
        windows.append(Window(positions, first, min(end, room - start)))
    return windows


def representative(own: NDArray[np.bool_], first: RowArray, end: RowArray) -> NDArray[np.bool_]:
    """Mark of the own tokens of b windows, bool (b, t), those that stand for their texts.

    Args:
        own: As `Output.own` marks them.
        first, end: int64 (b,), see `Window`.
    """
    number = own.cumsum(axis=1) - 1
    marked: NDArray[np.bool_] = own & (number >= first[:, None]) & (number < end[:, None])
    return marked
