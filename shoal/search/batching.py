"""Work-conserving micro-batching: while a call is in flight the waiting items gather; an idle server never waits."""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import ceil, inf
from typing import Generic, TypeVar

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")

LEARNING = 0.3
"""Weight of the latest batch in what is known of the pace."""


class Batcher(Generic[T, R]):
    """Serves single items through a handler of batches.

    No caller waits beyond its own deadline, whatever the handler does.

    Args:
        handler: Awaited with 1 to `max_batch` items, returns one result an item, in order. It is cancelled when the
            last deadline of its batch passes.
        max_waiting: Items that may wait beside those in flight.
        concurrency: Batches in flight at once.
        fits: Whether a batch, never empty, has room for one item more; what does not fit waits for the next batch, in
            order.
        cost: What an item costs, in any unit that the handler's time grows with; with it, what cannot be done by its
            deadline is not started and does not wait.
        name: What the items wait for, in messages.
        observe: Hears the size of every batch.
    """

    def __init__(  # noqa: PLR0913 - a mechanism on its own: each has a default but the first
        self,
        handler: Callable[[list[T]], Awaitable[Sequence[R]]],
        *,
        max_batch: int,
        max_waiting: int,
        concurrency: int = 1,
        fits: Callable[[list[T], T], bool] | None = None,
        cost: Callable[[T], float] | None = None,
        name: str = "server",
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._handler = handler
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._concurrency = concurrency
        self._fits = fits
        self._cost = cost or (lambda item: 0.0)
        self._name = name
        self._clock = clock
        self._observe = observe
        self._waiting: OrderedDict[asyncio.Future[R], tuple[T, float]] = OrderedDict()
        self._workers: set[asyncio.Task[None]] = set()
        self._in_flight: dict[asyncio.Task[None], tuple[float, float]] = {}
        """Cost of each batch, and when it began."""
        self._batch_s = 0.0
        self._pace = 0.0
        """Seconds that a unit of cost takes."""

    @property
    def waiting(self) -> int:
        """Items that wait for a batch."""
        return len(self._waiting)

    def submit(self, item: T, deadline: float) -> "asyncio.Future[R]":
        """Queue one item; `deadline` is by the clock, in seconds.

        The future holds the item's result, the handler's exception, or DeadlineExceeded once the deadline has passed or
        cannot be met. Cancelling it gives up the place. Raises Overloaded when `max_waiting` items wait already, or so
        much that this one's turn would come too late, and DeadlineExceeded when there is no time left.
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
        ahead = self._ahead()
        if ahead and ahead + self._pace * self._cost(item) > remaining:
            raise Overloaded(
                f"the {self._name} needs {ahead:.1f} s for what it has to do already, and then there is no time left "
                "for this; allow more time or try again later",
                retry_after_s=ahead,
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

    def _ahead(self) -> float:
        """Seconds until an item that comes now has its turn, by the pace of recent batches; 0 if there is nothing."""
        if not self._pace:
            return 0.0
        now = asyncio.get_running_loop().time()
        waiting = self._pace * sum(self._cost(item) for item, _ in self._waiting.values())
        begun = sum(max(0.0, self._pace * cost - (now - started)) for cost, started in self._in_flight.values())
        return (waiting + begun) / self._concurrency

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
        seconds, latest = 0.0, inf
        while self._waiting and len(batch) < self._max_batch:
            future, (item, deadline) = next(iter(self._waiting.items()))
            done = now + seconds + self._pace * self._cost(item)
            # The loop may have been too busy to run its timer. The last one of all is tried even if it seems hopeless:
            # nobody waits for its place, and a pace that is wrong has to be found out.
            if deadline <= now or (done > deadline and (batch or len(self._waiting) > 1)):
                self._expire(future)
            if not future.done():  # done: expired, or cancelled in this very round of the loop
                if batch and self._fits and not self._fits([one for _, one, _ in batch], item):
                    break
                if batch and done > latest:  # with this one the others would be late
                    break
                batch.append((future, item, deadline))
                seconds, latest = done - now, min(latest, deadline)
            del self._waiting[future]
        return batch

    async def _serve(self, batch: list[tuple["asyncio.Future[R]", T, float]], worker: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        cost = sum(self._cost(item) for _, item, _ in batch)
        self._observe(len(batch))
        self._in_flight[worker] = cost, started
        failure: Exception
        try:
            async with asyncio.timeout(max(deadline for _, _, deadline in batch) - self._clock()):
                results = await self._handler([item for _, item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the {self._name} returned {len(results)} results for {len(batch)} items")
        except TimeoutError:
            self._learn(cost, max(loop.time() - started, self._pace * cost))  # it takes longer than that
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
            self._learn(cost, self._batch_s)
            for (future, _, _), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
            return
        finally:
            del self._in_flight[worker]
        self._fail(batch, failure)

    def _learn(self, cost: float, seconds: float) -> None:
        if cost:
            pace = seconds / cost
            self._pace = self._pace + LEARNING * (pace - self._pace) if self._pace else pace

    @staticmethod
    def _fail(batch: list[tuple["asyncio.Future[R]", T, float]], failure: Exception) -> None:
        for future, _, _ in batch:
            if not future.done():
                future.set_exception(failure)
