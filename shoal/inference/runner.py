"""Forward passes by token budget: what is read together, and how many passes run side by side."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.inference.network import Input, Network, Output, Task
from shoal.records import RowArray
from shoal.settings import InferenceSettings

_WINDOW = 1024
"""Texts tokenised at once: bounds memory, and is wide enough that sorting within it leaves little padding."""

_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 2_048, 65_536
"""Default token budgets: on a CPU the activations of a small model stay in its caches, a GPU wants to be filled."""

_CALL_TOKENS = 64
"""What a forward pass on a CPU costs beside its tokens, in tokens: measured with a small model, whose weights have to
be read each time. Where padding would cost more, a batch of its own is cheaper."""

_AHEAD = 4
"""Batches a thread that wait to be computed: while they are, the next window is tokenised."""


def token_batches(lengths: NDArray[Any], batch_tokens: int, padding: int | None = None) -> Iterator[RowArray]:
    """Split texts of these many tokens into batches of at most `batch_tokens`, padding included; longest first.

    A single text longer than the budget is a batch of its own.

    Args:
        padding: Most tokens of padding in a batch, which should be what a batch of its own costs; None sets no bound.

    Yields:
        int64 rows of `lengths`.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, batch_tokens // max(1, longest))]
        if padding is not None:
            rows = rows[: np.searchsorted(np.cumsum(longest - lengths[rows]), padding, side="right")]
        yield rows
        start += len(rows)


class Runner:
    """Runs a network over texts or pairs, batched by token budget.

    On a CPU several batches are computed side by side, each on one thread, which is faster than one batch on several;
    meanwhile the texts of the next window are tokenised. A lone batch gets all threads, for the least latency. Which
    texts share a batch depends on the texts alone: the same inputs give the same bits.
    Not safe for concurrent calls. threads: CPU threads.

    full_texts: inputs so far that took all the tokens that the network reads.
    """

    def __init__(self, network: Network, settings: InferenceSettings, threads: int) -> None:
        self.full_texts = 0
        self._network = network
        self._threads = threads
        cuda = network.placement.device == "cuda"
        self._batch_tokens = settings.batch_tokens or (_GPU_BATCH_TOKENS if cuda else _CPU_BATCH_TOKENS)
        self._padding = None if cuda else _CALL_TOKENS
        self._lanes = 1 if cuda else threads
        self._pool = ThreadPoolExecutor(self._lanes, thread_name_prefix="inference")

    def forward(
        self, inputs: Sequence[Input], *, prompt: str = "", task: Task | None = None, tokens: bool = False
    ) -> Iterator[tuple[RowArray, Output]]:
        """Run the network over texts or pairs.

        Yields the rows of `inputs` in a batch, int64 (b,), and what became of them. tokens: whether the vectors of the
        tokens are wanted.
        """
        batches = self._batches(inputs, prompt, task)
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return
        if second is None:
            yield first[0], self._network.run(first[1], self._threads, tokens=tokens)
            return
        pending: deque[tuple[RowArray, Future[Output]]] = deque()
        each = self._threads // self._lanes
        try:
            for rows, batch in chain((first, second), batches):
                if len(pending) >= _AHEAD * self._lanes:
                    done, future = pending.popleft()
                    yield done, future.result()
                pending.append((rows, self._pool.submit(self._network.run, batch, each, tokens=tokens)))
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def count_tokens(self, inputs: Sequence[Input], prompt: str) -> list[int]:
        """Count the tokens of whole texts or pairs, in input order; see `Network.count_tokens`."""
        return self._network.count_tokens([_encodable(text) for text in inputs], prompt)

    def locate_tokens(self, texts: Sequence[str], prompt: str) -> list[RowArray] | None:
        """Find the own tokens of texts, in input order; see `Network.locate_tokens`."""
        return self._network.locate_tokens([_clean(text) for text in texts], prompt)

    @property
    def max_length(self) -> int:
        """Tokens read of a text or pair, special tokens included."""
        return self._network.max_length

    def _batches(self, inputs: Sequence[Input], prompt: str, task: Task | None) -> Iterator[tuple[RowArray, Any]]:
        """Tokenise window by window, longest texts first. Yields the rows and the padded tokens of each batch."""
        characters = [-sum(map(len, text)) if isinstance(text, tuple) else -len(text) for text in inputs]
        order = np.argsort(np.array(characters, dtype=np.int64), kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            tokenised = self._network.tokenise([_encodable(inputs[row]) for row in window], prompt, task)
            if tokenised.ids is None:
                yield window, tokenised.batch(np.arange(len(window)))
                continue
            lengths = np.array([len(ids) for ids in tokenised.ids], np.int64)
            self.full_texts += int(np.count_nonzero(lengths >= self._network.max_length))
            for rows in token_batches(lengths, self._batch_tokens, self._padding):
                yield window[rows], tokenised.batch(rows)


def _encodable(text: Input) -> Input:
    # JSON can carry lone surrogates, and one of them would make the tokenizer refuse the whole batch.
    if isinstance(text, tuple):
        return _clean(text[0]), _clean(text[1])
    return _clean(text)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
