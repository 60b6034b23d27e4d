import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.inference.network import own_tokens
from shoal.inference.windows import representative, windows_of

CLS, SEP = 1, 2


def test_windows_of_a_model_that_reads_256_tokens() -> None:
    ids = [CLS, *range(10, 510), SEP]
    windows = windows_of(ids, (CLS, SEP), 0, 256)
    read = [[ids[place] for place in window.positions] for window in windows]
    head = list(range(10, 34))
    assert read == [
        [CLS, *head, *range(34, 234), SEP],
        [CLS, *head, *range(184, 384), SEP],
        [CLS, *head, *range(334, 510), SEP],
    ]
    assert [(window.first, window.end) for window in windows] == [
        (0, 199),
        (49, 104),
        (49, -46),
    ]  # of 254, as many as are read at once


def test_a_text_that_is_read_in_one_go_is_one_window() -> None:
    (window,) = windows_of([CLS, 7, 8, 9, SEP], (CLS, SEP), 0, 5)
    assert window.positions.tolist() == [0, 1, 2, 3, 4]
    assert (window.first, window.end) == (0, 3)


def test_a_prompt_that_leaves_no_room_is_cut() -> None:
    (window,) = windows_of([CLS, *range(20, 40), 7, SEP], (CLS, SEP), 21, 16)
    assert window.positions.tolist() == list(range(16))


@given(
    count=st.integers(1, 400),
    prompt=st.integers(0, 12),
    max_length=st.integers(15, 80),
)
def test_each_token_of_the_beginning_stands_for_the_text_in_one_window(
    count: int, prompt: int, max_length: int
) -> None:
    ids = [CLS, *range(1000, 1000 + prompt), *range(100, 100 + count), SEP]
    windows = windows_of(ids, (CLS, SEP), 1 + prompt, max_length)
    standing: list[int] = []
    for window in windows:
        read = np.array([[ids[place] for place in window.positions]])
        assert read.shape[1] <= max_length
        begins = prompt + 1 + (max_length - prompt - 2 >= 8)  # the first token of the text too, where there is room
        assert read[0, :begins].tolist() == ids[:begins]
        assert read[0, -1] == SEP
        own = own_tokens(read, np.ones_like(read), (CLS, SEP), 1 + prompt)
        chosen = representative(own, np.array([window.first]), np.array([window.end]))
        standing += read[chosen].tolist()
    assert standing == list(range(100, 100 + count))[: max_length - prompt - 2]
    lengths = [len(window.positions) for window in windows]
    assert lengths == sorted(lengths, reverse=True)  # the runner keeps their order by that
