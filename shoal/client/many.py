"""Many queries, of which only some are under way at once: for every client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from shoal.client.answers import SearchResponse
from shoal.errors import InvalidArgument

CONCURRENCY = 8
"""Queries under way at once unless the caller says otherwise: enough to fill the batches of a small server."""
Progress = Callable[[int, int], None]
"""Hears, after each answer, how many queries are answered and how many there are."""


def search_many(
    search: Callable[[str], SearchResponse], queries: Iterable[str], concurrency: int, progress: Progress | None
) -> list[SearchResponse]:
    """Search for every query, in threads; the first error is raised, and then no further query is begun."""
    texts = _checked(queries, concurrency)
    responses: list[SearchResponse] = []
    with ThreadPoolExecutor(concurrency, thread_name_prefix="search_many") as pool:
        try:
            for response in pool.map(search, texts):
                responses.append(response)
                if progress is not None:
                    progress(len(responses), len(texts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return responses


async def search_many_async(
    search: Callable[[str], Awaitable[SearchResponse]],
    queries: Iterable[str],
    concurrency: int,
    progress: Progress | None,
) -> list[SearchResponse]:
    """Search for every query, in tasks; the first error is raised, and then the other queries are given up."""
    texts = _checked(queries, concurrency)
    responses: dict[int, SearchResponse] = {}
    waiting = iter(enumerate(texts))

    async def work() -> None:
        for number, text in waiting:
            responses[number] = await search(text)
            if progress is not None:
                progress(len(responses), len(texts))

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(texts)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [responses[number] for number in range(len(texts))]


def _checked(queries: Iterable[str], concurrency: int) -> list[str]:
    if isinstance(queries, str):
        raise InvalidArgument("queries should be several queries, not one string", param="queries")
    if concurrency < 1:
        raise InvalidArgument(f"concurrency should be at least 1, not {concurrency}", param="concurrency")
    return list(queries)
