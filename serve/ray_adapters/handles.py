"""Ray Serve handles behind the service protocols of the core: deadlines, and errors that a user can read.

A Serve handle has no timeout, waits for ever for a replica that does not exist, and raises remote stack traces. What
leaves this module is a result before the deadline or an error of `shoal.errors`.
"""

import asyncio
import contextvars
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.context import _RequestContext, _serve_request_context
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from shoal.encoders import TextVectors
from shoal.errors import DeadlineExceeded, Overloaded, ShoalError, Unavailable
from shoal.records import EmbeddedTexts, FloatArray, InputType, RowArray, Span, TermWeights
from shoal.shard.messages import Fetched, ShardHits, ShardSearch
from shoal.shard.questions import ShardQuestion
from shoal.system import spans, tracing
from shoal.system.deadlines import SentDeadline

T = TypeVar("T")

RETRY_AFTER_S = 1.0
"""Seconds after which a call that found no replica may be repeated."""


class ServiceHandle:
    """The deployment of any service."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def clock(self, deadline: float) -> float:
        """Return the time on the machine of a replica, in seconds since the epoch."""
        seconds: float = await call(self._handle, "clock", deadline=deadline)
        return seconds

    async def _broadcast(self, method: str, *args: Any, deadline: float, **options: Any) -> list[Any]:
        # A result that arrives too late is not cancelled: loading goes on, and the next broadcast finds it done.
        async def collect() -> list[Any]:
            response = self._handle.broadcast(method, *args, **options, deadline=SentDeadline(deadline))
            results: list[Any] = await response.results_async(timeout_s=max(0.0, deadline - time.monotonic()))
            return results

        name = self._handle.deployment_name
        try:
            return await _detached(collect())
        except TimeoutError:
            raise DeadlineExceeded(f"not every replica of {name} has answered {method} in time; try again") from None
        except Exception as error:
            raise readable(error, name) from None


class EncoderHandle(ServiceHandle):
    """The query encoder deployment as the `EncoderServer` of `serve.versions.discovery`."""

    async def encode(self, queries: Sequence[str], deadline: float, instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order."""
        options = {} if instruction is None else {"instruction": instruction}
        vectors: FloatArray = await call(self._handle, "encode", list(queries), **options, deadline=deadline)
        return vectors

    async def encode_passages(self, texts: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n, dim), L2-normalised, in input order: the vectors that a build gives these texts."""
        vectors: FloatArray = await call(self._handle, "encode_passages", list(texts), deadline=deadline)
        return vectors

    async def embed(
        self, texts: Sequence[str], input_type: InputType, deadline: float, with_tokens: bool = False
    ) -> EmbeddedTexts:
        """Return the vectors of texts, and those of their tokens if asked for, in input order."""
        embedded: EmbeddedTexts = await call(
            self._handle, "embed", list(texts), input_type, with_tokens=with_tokens, deadline=deadline
        )
        return embedded

    async def encode_terms(self, queries: Sequence[str], deadline: float) -> list[TermWeights]:
        """Return what the sparse model beside the encoder makes of queries, in input order."""
        terms: list[TermWeights] = await call(self._handle, "encode_terms", list(queries), deadline=deadline)
        return terms

    async def count_tokens(self, queries: Sequence[str], deadline: float) -> list[int]:
        """Return how many tokens whole queries have, in input order; 0 where that is not known."""
        counts: list[int] = await call(self._handle, "count_tokens", list(queries), deadline=deadline)
        return counts

    async def locate_tokens(self, passages: Sequence[str], deadline: float) -> list[RowArray] | None:
        """Return where the tokens of each passage lie in it, int64 (t, 2), in characters; None if that is not known."""
        offsets: list[RowArray] | None = await call(self._handle, "locate_tokens", list(passages), deadline=deadline)
        return offsets

    async def encode_tokens(
        self, queries: Sequence[str], deadline: float, instruction: str | None = None
    ) -> list[TextVectors]:
        """Return the vectors and those of the tokens, in input order."""
        options = {} if instruction is None else {"instruction": instruction}
        vectors: list[TextVectors] = await call(
            self._handle, "encode_tokens", list(queries), **options, deadline=deadline
        )
        return vectors


class ShardHandle(ServiceHandle):
    """The deployment of one shard as a `ShardService`, and as the `ShardControl` of `serve.versions.activation`."""

    def __init__(self, handle: DeploymentHandle, shard: int) -> None:
        super().__init__(handle)
        self._shard = shard

    async def search(self, batch: ShardSearch, deadline: float) -> ShardHits:
        """Search this shard for a batch of queries."""
        hits: ShardHits = await call(self._handle, "search", batch, deadline=deadline)
        return hits

    async def fetch(self, version: str, rows: Sequence[int], deadline: float, with_vectors: bool = False) -> Fetched:
        """Return the passages (and, if asked for, the vectors) of rows of this shard, in the order asked."""
        fetched: Fetched = await call(
            self._handle, "fetch", version, list(rows), with_vectors=with_vectors, deadline=deadline
        )
        return fetched

    async def score(self, version: str, query: TextVectors, rows: Sequence[int], deadline: float) -> FloatArray:
        """Return, float32 (n,), what late interaction gives rows of this shard by their stored token vectors."""
        scores: FloatArray = await call(self._handle, "score", version, query, list(rows), deadline=deadline)
        return scores

    async def locate(self, version: str, ids: Sequence[str], deadline: float, min_position: int = 0) -> list[int]:
        """Return the row of each id, -1 for one that is not in this shard."""
        rows: list[int] = await call(
            self._handle, "locate", version, list(ids), min_position=min_position, deadline=deadline
        )
        return rows

    async def list_ids(
        self, version: str, prefix: str, after: str | None, limit: int, deadline: float, min_position: int = 0
    ) -> list[str]:
        """Return the first ids that begin with a prefix and come after an id, in order."""
        ids: list[str] = await call(
            self._handle, "list_ids", version, prefix, after, limit, min_position=min_position, deadline=deadline
        )
        return ids

    async def ask(self, version: str, question: ShardQuestion[T], deadline: float) -> T:
        """Return what this shard answers to a question about its rows."""
        answer: T = await call(self._handle, "ask", version, question, deadline=deadline)
        return answer

    async def holds(self, version: str, deadline: float) -> bool:
        """Whether a replica has the version loaded."""
        held: bool = await call(self._handle, "holds", version, deadline=deadline)
        return held

    async def prepare(self, version: str, deadline: float) -> None:
        """Load a version in every replica. Raises the first error, and Unavailable if there is no replica."""
        if not await self._broadcast("prepare", version, deadline=deadline):
            raise Unavailable(f"shard {self._shard} has no replica; try again", retry_after_s=RETRY_AFTER_S)

    async def retire(self, keep: Sequence[str], deadline: float) -> None:
        """Close every version but these in every replica."""
        await self._broadcast("retire", list(keep), deadline=deadline)


class RerankerHandle(ServiceHandle):
    """The reranker pool as a `RerankService`."""

    async def score(self, query: str, passages: Sequence[str], deadline: float) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        scores: FloatArray = await call(self._handle, "score", query, list(passages), deadline=deadline)
        return scores

    async def score_sentences(
        self, query: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], deadline: float
    ) -> list[FloatArray | None]:
        """Return how well each sentence of some passages matches a query; see `shoal.rerankers.SentenceScorer`."""
        scores: list[FloatArray | None] = await call(
            self._handle, "score_sentences", query, list(passages), list(sentences), deadline=deadline
        )
        return scores

    async def count_tokens(self, query: str, passages: Sequence[str], deadline: float) -> int:
        """Count the tokens that scoring these passages reads; 0 where that is not known."""
        count: int = await call(self._handle, "count_tokens", query, list(passages), deadline=deadline)
        return count


class IngressHandle(ServiceHandle):
    """The ingress, for whoever runs the server."""

    async def finish(self, deadline: float) -> int:
        """Let every replica refuse requests and finish those under way; returns how many still are at the deadline."""
        return sum(await self._broadcast("finish", deadline=deadline))

    async def loaded_names(self, deadline: float) -> list[str]:
        """Return the names of the indexes of the catalog that any replica has in memory."""
        return sorted({name for names in await self._broadcast("loaded_names", deadline=deadline) for name in names})

    async def note(self, problem: str, index: str | None, deadline: float) -> None:
        """Let every replica tell a problem of an index for a while; None is the default one."""
        await self._broadcast("note", problem, index=index, deadline=deadline)


def readable(error: Exception, name: str) -> ShoalError:
    """Turn what a call to the deployment `name` raised into the error it stands for, without remote traces."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ShoalError):
        return cause
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, BackPressureError):
        return Overloaded(f"{name} has as many calls waiting as it accepts; try again", retry_after_s=RETRY_AFTER_S)
    if isinstance(error, RayActorError | RayServeException | TaskCancelledError):
        return Unavailable(f"{name} has no replica that answers; try again", retry_after_s=RETRY_AFTER_S)
    origin = cause if isinstance(cause, Exception) else error
    return ShoalError(f"{name} failed: {type(origin).__name__}: {_first_line(origin)}; its log has the details")


async def call(handle: DeploymentHandle, method: str, *args: Any, deadline: float, **options: Any) -> Any:
    """Call one replica; returns or raises before the deadline, a time of `time.monotonic`.

    The replica gets the deadline too, by its own clock, as every method of a replica takes one.
    A call that its replica did not survive is Unavailable; the pipeline tries it once more. Where the caller is traced,
    the replica learns its place in each trace (`serve.replicas.traced`).
    """
    if places := spans.carriers():
        options["places"] = places
    return await _detached(_asked(handle, method, args, options, deadline))


async def _detached(call: Coroutine[Any, Any, T]) -> T:
    # One call serves the queries of many HTTP requests. In the context of the request that happened to start it, Serve
    # would cancel the call for all of them as soon as that one client goes away. The replica's log lines name them all.
    context = contextvars.Context()
    context.run(_serve_request_context.set, _RequestContext(request_id=tracing.label()))
    return await asyncio.create_task(call, context=context)


async def _asked(
    handle: DeploymentHandle, method: str, args: tuple[Any, ...], options: dict[str, Any], deadline: float
) -> Any:
    name = handle.deployment_name
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _expired(name)
    response = getattr(handle, method).remote(*args, **options, deadline=SentDeadline(deadline))
    task = asyncio.ensure_future(_result(response))
    try:
        done, _ = await asyncio.wait({task}, timeout=remaining)
    except asyncio.CancelledError:
        _abandon(response, task)
        raise
    if not done:
        _abandon(response, task)
        raise _expired(name)
    try:
        return task.result()
    except asyncio.CancelledError:
        raise Unavailable(f"{name} gave up the call; try again", retry_after_s=RETRY_AFTER_S) from None
    except Exception as error:
        raise readable(error, name) from error


def _expired(name: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"the deadline passed before {name} had answered; allow more time")


async def _result(response: Any) -> Any:
    return await response


def _abandon(response: Any, task: "asyncio.Task[Any]") -> None:
    response.cancel()
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else asks how it ended


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
