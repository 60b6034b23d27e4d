"""Work-conserving micro-batching: while a call is in flight the waiting items gather; an idle server never waits."""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import ceil
from typing import Generic, TypeVar

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Serves single items through a handler of batches.

    handler: awaited with 1 to `max_batch` items, returns one result an item, in order. It is cancelled when the last
    deadline of its batch passes. max_waiting: items that may wait beside those in flight. concurrency: batches in
    flight at once. fits: whether a batch, never empty, has room for one item more; what does not fit waits for the next
    batch, in order. name: what the items wait for, in messages. observe: hears the size of every batch.

    No caller waits beyond its own deadline, whatever the handler does.
    """

    def __init__(
        self,
        handler: Callable[[list[T]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        max_waiting: int,
        concurrency: int = 1,
        fits: Callable[[list[T], T], bool] | None = None,
        name: str = "server",
        clock: Callable[[], float] = time.time,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._handler = handler
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._concurrency = concurrency
        self._fits = fits
        self._name = name
        self._clock = clock
        self._observe = observe
        self._waiting: OrderedDict[asyncio.Future[R], tuple[T, float]] = OrderedDict()
        self._workers: set[asyncio.Task[None]] = set()
        self._batch_s = 0.0

    @property
    def waiting(self) -> int:
        """Items that wait for a batch."""
        return len(self._waiting)

    def submit(self, item: T, deadline: float) -> "asyncio.Future[R]":
        """Queue one item; `deadline` is absolute, in seconds since the epoch.

        The future holds the item's result, the handler's exception, or DeadlineExceeded once the deadline has passed.
        Cancelling it gives up the place. Raises Overloaded when `max_waiting` items wait already, and DeadlineExceeded
        when there is no time left.
        """
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise self._expired()
        if len(self._waiting) >= self._max_waiting:
            batches = ceil(len(self._waiting) / self._max_batch / self._concurrency)
            raise Overloaded(
                f"the {self._name} has {len(self._waiting)} queries waiting, which is its limit; try again later",
                retry_after_s=batches * self._batch_s,
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        future.add_done_callback(partial(self._leave, loop.call_later(remaining, self._expire, future)))
        self._waiting[future] = (item, deadline)
        if len(self._workers) < self._concurrency:
            # The task starts in the loop's next round, so that items submitted in this one share its first batch. What
            # it serves is no more the business of the request that starts it than of any other.
            worker = loop.create_task(self._work(), context=contextvars.Context())
            self._workers.add(worker)
        return future

    def _leave(self, timer: asyncio.TimerHandle, future: "asyncio.Future[R]") -> None:
        timer.cancel()
        self._waiting.pop(future, None)

    def _expire(self, future: "asyncio.Future[R]") -> None:
        if not future.done():
            future.set_exception(self._expired())

    def _expired(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the deadline passed before the {self._name} had answered; allow more time")

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        try:
            while batch := self._take():
                await self._serve(batch, worker)
        finally:
            self._workers.discard(worker)

    def _take(self) -> list[tuple["asyncio.Future[R]", T, float]]:
        now = self._clock()
        batch: list[tuple[asyncio.Future[R], T, float]] = []
        while self._waiting and len(batch) < self._max_batch:
            future, (item, deadline) = next(iter(self._waiting.items()))
            if deadline <= now:  # the loop was too busy to run its timer
                self._expire(future)
            if not future.done():  # done: expired, or cancelled in this very round of the loop
                if batch and self._fits and not self._fits([one for _, one, _ in batch], item):
                    break
                batch.append((future, item, deadline))
            del self._waiting[future]
        return batch

    async def _serve(self, batch: list[tuple["asyncio.Future[R]", T, float]], worker: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._observe(len(batch))
        failure: Exception
        try:
            async with asyncio.timeout(max(deadline for _, _, deadline in batch) - self._clock()):
                results = await self._handler([item for _, item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the {self._name} returned {len(results)} results for {len(batch)} items")
        except TimeoutError:
            failure = self._expired()
        except Exception as error:
            failure = error
        except asyncio.CancelledError:
            failure = Unavailable(f"the {self._name} gave up the call; try again", retry_after_s=1)
            if worker.cancelling():
                self._fail(batch, failure)
                raise
        else:
            self._batch_s = loop.time() - started
            for (future, _, _), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
            return
        self._fail(batch, failure)

    @staticmethod
    def _fail(batch: list[tuple["asyncio.Future[R]", T, float]], failure: Exception) -> None:
        for future, _, _ in batch:
            if not future.done():
                future.set_exception(failure)
