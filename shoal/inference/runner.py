"""Forward passes by token budget: what is read together, and how many passes run side by side."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shoal.inference.network import Input, Network, Output, Task, Tokenised
from shoal.inference.windows import representative, windows_of
from shoal.records import RowArray
from shoal.settings import InferenceSettings

_TOKENISED = 1024
"""Texts tokenised at once: bounds memory, and is wide enough that sorting them leaves little padding."""

_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 2_048, 65_536
"""Default token budgets: on a CPU the activations of a small model stay in its caches, a GPU wants to be filled."""

_CALL_TOKENS = 64
"""What a forward pass on a CPU costs beside its tokens, in tokens: measured with a small model, whose weights have to
be read each time. Where padding would cost more, a batch of its own is cheaper."""

_AHEAD = 4
"""Batches a thread that wait to be computed: while they are, the next texts are tokenised."""


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


class _Batch(NamedTuple):
    """What one forward pass reads.

    rows: int64 (b,), of the inputs. tokens: padded, for `Network.run`. ranges: int64 (b, 2), which own tokens of a
    window stand for its text, see `Window`; None where all do.
    """

    rows: RowArray
    tokens: Any
    ranges: RowArray | None = None


class Runner:
    """Runs a network over texts or pairs, batched by token budget.

    On a CPU several batches are computed side by side, each on one thread, which is faster than one batch on several;
    meanwhile the next texts are tokenised. A lone batch gets all threads, for the least latency. Which
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
        self,
        inputs: Sequence[Input],
        *,
        prompt: str = "",
        task: Task | None = None,
        tokens: bool = False,
        most: int | None = None,
    ) -> Iterator[tuple[RowArray, Output]]:
        """Run the network over texts or pairs.

        Args:
            prompt: Set before each.
            task: What they are.
            tokens: Whether the vectors of the tokens are wanted.
            most: Tokens that are read of a text, in windows where they are more than `max_length`; that many if left
                out.

        Yields:
            The rows of `inputs` in a batch, int64 (b,), and what became of them. A row that is read in windows comes
            once for each of them, in their order, and `Output.own` marks each of its first tokens once.
        """
        batches = self._batches(inputs, prompt, task, most)
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return
        if second is None:
            yield first.rows, self._run(first, self._threads, tokens)
            return
        pending: deque[tuple[RowArray, Future[Output]]] = deque()
        each = self._threads // self._lanes
        try:
            for batch in chain((first, second), batches):
                if len(pending) >= _AHEAD * self._lanes:
                    done, future = pending.popleft()
                    yield done, future.result()
                pending.append((batch.rows, self._pool.submit(self._run, batch, each, tokens)))
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _run(self, batch: _Batch, threads: int, tokens: bool) -> Output:
        made = self._network.run(batch.tokens, threads, tokens=tokens)
        if made.own is None or batch.ranges is None:
            return made
        return made._replace(own=representative(made.own, batch.ranges[:, 0], batch.ranges[:, 1]))

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

    def _batches(self, inputs: Sequence[Input], prompt: str, task: Task | None, most: int | None) -> Iterator[_Batch]:
        """Tokenise some texts at a time, the longest first, and put what is alike in length together."""
        characters = [-sum(map(len, text)) if isinstance(text, tuple) else -len(text) for text in inputs]
        order = np.argsort(np.array(characters, dtype=np.int64), kind="stable")
        for start in range(0, len(order), _TOKENISED):
            rows = order[start : start + _TOKENISED]
            tokenised = self._network.tokenise([_encodable(inputs[row]) for row in rows], prompt, task, most)
            if tokenised.ids is None:
                yield _Batch(rows, tokenised.batch(np.arange(len(rows))))
                continue
            lengths = np.array([len(ids) for ids in tokenised.ids], np.int64)
            self.full_texts += int(np.count_nonzero(lengths >= (most or self.max_length)))
            ranges: RowArray | None = None
            if lengths.max() > self.max_length:
                tokenised, owners, ranges = self._cut(tokenised, tokenised.ids)
                rows, lengths = rows[owners], np.array([len(ids) for ids in tokenised.ids or ()], np.int64)
            # No window is longer than the one before it, and equal ones keep their order.
            for places in token_batches(lengths, self._batch_tokens, self._padding):
                yield _Batch(rows[places], tokenised.batch(places), None if ranges is None else ranges[places])

    def _cut(self, tokenised: Tokenised, texts: list[list[int]]) -> tuple[Tokenised, RowArray, RowArray]:
        """Cut texts into windows: these, the text of each, int64 (w,), and which own tokens stand for it, (w, 2)."""
        special, prompt_length = self._network.facts.special, tokenised.prompt_length
        windows = [
            (row, window)
            for row, ids in enumerate(texts)
            for window in windows_of(ids, special, prompt_length, self.max_length)
        ]
        picked = tokenised.pick([(row, window.positions) for row, window in windows])
        owners = np.array([row for row, _ in windows], np.int64)
        return picked, owners, np.array([(window.first, window.end) for _, window in windows], np.int64)


def _encodable(text: Input) -> Input:
    # JSON can carry lone surrogates, and one of them would make the tokenizer refuse the whole batch.
    if isinstance(text, tuple):
        return _clean(text[0]), _clean(text[1])
    return _clean(text)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
