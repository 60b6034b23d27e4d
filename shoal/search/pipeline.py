"""One search from query to answer: queue, encode, fan out, merge, fetch, rerank. Knows services, never Ray."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from shoal.encoders import TextVectors
from shoal.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShoalError, Unavailable
from shoal.filters import Filter
from shoal.index_root.manifest import Manifest, VectorIndexInfo
from shoal.metadata import FieldTypes
from shoal.records import Candidate, FloatArray, Mode, Result, SearchAnswer, SearchRequest, Timings
from shoal.search.batching import Batcher
from shoal.search.explain import explain
from shoal.search.fanout import FanOut, Probe, describe, merged
from shoal.search.fusion import fuse
from shoal.search.hedging import Attempts, Budget
from shoal.search.rerank_stage import LATE, SecondStage, best, ordered
from shoal.search.services import Deaf, EncodeService, Observer, RerankService, ShardService
from shoal.settings import ServeSettings
from shoal.system import tracing

CHARACTERS_PER_CALL = 2048
"""Most characters of queries in one call that returns the vectors of their tokens, whose number they bound: with 1,024
dimensions some 8 MiB. A longer query has a call of its own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Text:
    query: str
    deadline: float
    requests: tuple[str, ...]
    tokens: bool = False


@dataclass(frozen=True, slots=True)
class _Encoded:
    """`vectors`: of a query that is reranked by the token vectors of the shards; `vector`: of any but a lexical one."""

    vector: FloatArray | None
    vectors: TextVectors | None
    started: float
    finished: float
    batch: int


class _Call:
    """Queries that came together, and their filters.

    A filter can take milliseconds to parse, so those that share one share its tree, which is parsed once for a version
    and is in a message to a shard once.
    """

    def __init__(self, index: FanOut, arrived: float) -> None:
        self.index = index
        self.arrived = arrived
        self._trees: dict[tuple[FanOut, int], Filter | None] = {}

    def tree(self, index: FanOut, document: Mapping[str, Any] | None) -> Filter | None:
        key = index, id(document)
        if key not in self._trees:
            self._trees[key] = index.filter(document)
        return self._trees[key]


class SearchPipeline:
    """Answers searches with an encoder, the shards of an index and, unless None, a reranker.

    clock: seconds since the epoch, what deadlines are compared with. observer: hears of batches and shards. kind: of
    the reranker, if its name does not tell (`shoal.rerankers.kind_of`). Use it within one event loop.
    """

    def __init__(
        self,
        encoder: EncodeService,
        shards: Sequence[ShardService],
        reranker: RerankService | None,
        settings: ServeSettings,
        clock: Callable[[], float] = time.time,
        observer: Observer | None = None,
        kind: str | None = None,
    ) -> None:
        self._observer = observer or Deaf()
        self._encoder = encoder
        self._shards = shards
        self._second_stage = SecondStage(reranker, settings, clock, kind)
        self._settings = settings
        self._clock = clock
        self._index: FanOut | None = None
        self._encoder_attempts = Attempts(
            settings.encoder_replicas, settings.hedge_percentile, Budget(settings.hedge_budget), clock
        )
        self._encodings = Batcher(
            self._encode,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            concurrency=max(1, settings.encoder_replicas),
            fits=_fits,
            name="queue of the encoder",
            clock=clock,
            observe=partial(self._observer.batch, "encode"),
        )

    @property
    def version(self) -> str | None:
        """The version that new searches are answered from; None before the first `switch`."""
        return self._index.version if self._index else None

    def queues(self) -> dict[str, int]:
        """Count the queries that wait for each stage; of the shards, for the one that most wait for."""
        return {"encode": self._encodings.waiting, "retrieve": self._index.waiting if self._index else 0}

    def switch(
        self,
        version: str,
        counts: Sequence[int],
        fields: FieldTypes | None = None,
        lexical: bool = False,
        index: VectorIndexInfo | None = None,
        late: bool = False,
        absent: Sequence[int] = (),
    ) -> None:
        """Answer new searches from this version; those under way finish with theirs.

        counts: passages of each shard, in order. fields: types of its metadata fields. lexical: whether it can be
        searched by words. index: its vector index, as the manifest describes it. late: whether its shards hold token
        vectors. absent: shards that are not waited for until they answer. Raises Conflict when the version has another
        number of shards.
        """
        self._index = FanOut(
            version,
            self._shards,
            counts,
            self._settings,
            self._clock,
            fields,
            lexical,
            self._observer,
            index,
            late,
            absent,
        )

    def switch_to(self, manifest: Manifest, absent: Sequence[int] = ()) -> None:
        """Answer new searches from the version that a manifest describes; see `switch`."""
        counts = [shard.count for shard in manifest.shards]
        lexical, late = manifest.lexical is not None, manifest.late is not None
        self.switch(manifest.version, counts, manifest.fields, lexical, manifest.index, late, absent)

    async def search_all(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order. The first error is raised and gives up the others."""
        if self._index is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        call = _Call(self._index, self._clock())
        for request in requests:  # what is wrong costs nobody anything
            call.tree(call.index, request.filter)
            call.index.effort(request.recall)
        if len(requests) == 1:
            return [await self._search(requests[0], call)]
        searches = [asyncio.ensure_future(self._search(request, call)) for request in requests]
        try:
            return await asyncio.gather(*searches)
        finally:
            for search in searches:
                search.cancel()

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Answer one query.

        Shards that miss their share of the time are left out and named in `coverage`; without a reranker in time the
        answer is in stage-one order. Raises Overloaded at once when too many queries wait, DeadlineExceeded when the
        query could not be encoded in time, Unavailable when no shard answered or no version is served yet,
        InvalidArgument for a mode that the version has no index for, a filter that does not fit it, a recall that it
        does not reach, vectors that its kind cannot give, and token vectors that its shards do not hold.
        """
        (answer,) = await self.search_all([request])
        return answer

    async def _search(self, request: SearchRequest, call: _Call) -> SearchAnswer:
        now = self._clock  # not the loop's, which uvloop rounds to milliseconds
        arrived, index = call.arrived, call.index
        tokens = self._is_late(request, index) or self._shortens(request, index)
        if self._mode(request, index) == "lexical" and not tokens:
            encoded = _Encoded(None, None, arrived, arrived, 0)
        else:
            text = _Text(request.query, request.deadline, tracing.requests(), tokens)
            encoded = await self._encodings.submit(text, request.deadline)

        encoded_at = now()
        index = self._index or index  # read once: an answer never mixes two versions
        mode = self._mode(request, index)
        late, shortens = self._is_late(request, index), self._shortens(request, index)
        reranks = late or (request.rerank and self._second_stage.reads)
        depth = request.top_k if reranks else min(request.top_k, request.top_n)
        wanted = max(depth, self._settings.window) if mode == "hybrid" else depth
        tree = call.tree(index, request.filter)
        share, effort = self._share_of(request.deadline), index.effort(request.recall)
        vector = None if mode == "lexical" else encoded.vector
        probe = Probe(request.query, vector, mode, wanted, share, tree, tracing.requests(), effort)
        found, missing = await index.search(probe)
        found_at = now()
        dense, lexical = merged(found, probe)
        candidates = fuse(dense, lexical, self._settings)[:depth] if mode == "hybrid" else dense or lexical
        merged_at = now()
        greatest = lexical[0].score if lexical and mode == "hybrid" else 0.0
        scores: FloatArray | None = None
        degraded: dict[str, str] = {}
        read: Sequence[int] = range(len(candidates))  # places of the candidates whose texts are needed
        if encoded.vectors is not None and (late or shortens):
            candidates, stored, lost = await self._score(index, encoded.vectors, candidates, request.deadline)
            unscored = f"no shard scored its passages ({describe(lost)})" if candidates and stored is None else None
            if not unscored:  # else stage one's candidates stay as they are, those of all shards
                missing |= lost
            order = ordered(candidates, self._second_stage.final(mode, stored, candidates, greatest, late=True))
            if late:
                scores, read = stored, order[: request.top_n]
                if unscored:
                    degraded["not_scored"] = f"not reranked: {unscored}"
            else:
                candidates = [candidates[place] for place in sorted(order[: self._short(request)])]
                read = range(len(candidates))
                if unscored:
                    degraded["not_shortened"] = (
                        f"the reranker read the first {len(candidates)} of stage one: {unscored}"
                    )
        scored_at = now()
        if any(candidates[place].passage is None for place in read):
            candidates, lost = await self._with_passages(index, candidates, read, request.deadline)
            missing |= lost
            if not late:
                kept = (one for one in candidates if one.passage)
                candidates = list(kept) if shortens else _ranked(kept)
            if not any(candidate.passage for candidate in candidates):
                if set(lost.values()) == {"overloaded"}:  # busy and not broken
                    raise Overloaded("too many queries wait for the texts of their passages; try again later")
                raise Unavailable(f"no shard sent its passages ({describe(missing)}); try again", retry_after_s=1)

        retrieved_at = now()
        if not late:
            scores, lacks = await self._second_stage.score(request, candidates)
            degraded |= lacks
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            lacking = f"{len(missing)} of {len(self._shards)} shards {verb} missing ({describe(missing)})"
            degraded = {"shards": lacking, **degraded}
        reranked_at = now()
        final = self._second_stage.final(mode, scores, candidates, greatest, late)
        results = best(candidates, scores, final, request.top_n)
        if request.include_vector and results:
            results, lost = await self._with_vectors(index, candidates, results, request.deadline)
            if lost:
                degraded["vectors"] = f"some vectors are missing ({describe(lost)})"

        finished = now()
        return SearchAnswer(
            index_version=index.version,
            results=results,
            reranked=scores is not None,
            coverage=index.coverage(missing),
            degraded="; ".join(degraded.values()) or None,
            timings=Timings(
                queue=1000 * (encoded.started - arrived),
                encode=1000 * (encoded.finished - encoded.started),
                retrieve=1000 * (found_at - encoded_at),
                merge=1000 * (merged_at - found_at),
                fetch=1000 * (retrieved_at - scored_at),
                rerank=1000 * (reranked_at - retrieved_at + scored_at - merged_at),
                total=1000 * (finished - arrived),
            ),
            pairs=len(candidates) if scores is not None else 0,
            mode=mode,
            reranker=None if scores is None else LATE if late else self._settings.reranker,
            explain=explain(request, probe, encoded.batch, found, missing, candidates, scores)
            if request.explain
            else None,
            degradations=tuple(degraded),
        )

    def _mode(self, request: SearchRequest, index: FanOut) -> Mode:
        """The mode of a request, or else of this server, which is one that the version can answer."""
        preferred = request.mode or self._settings.mode
        mode: Mode = ("hybrid" if index.lexical else "dense") if preferred == "auto" else preferred
        if mode != "dense" and not index.lexical:
            raise InvalidArgument(
                f"mode {mode} needs a lexical index, which version {index.version} has not; use dense, or build it "
                "with --lexical",
                param="mode",
            )
        return mode

    def _is_late(self, request: SearchRequest, index: FanOut) -> bool:
        """Whether the shards order the candidates of a request."""
        if request.rerank == LATE and not index.late:
            raise InvalidArgument(
                f"rerank late needs token vectors, which the shards of version {index.version} do not hold; build it "
                "with --late-interaction stored, or leave it out",
                param="rerank",
            )
        return request.rerank == LATE

    def _shortens(self, request: SearchRequest, index: FanOut) -> bool:
        """Whether the shards choose, of the candidates of a request, those that the reranker reads."""
        reads = request.rerank is True and self._second_stage.reads
        return reads and index.late and self._short(request) < request.top_k

    def _short(self, request: SearchRequest) -> int:
        return max(self._settings.shortlist or request.top_k, request.top_n)

    def _share_of(self, deadline: float) -> float:
        now = self._clock()
        return now + self._settings.retrieve_share * (deadline - now)

    async def _encode(self, texts: list[_Text]) -> list[_Encoded]:
        tracing.work_for(*(text.requests for text in texts))
        now = self._clock
        started = now()
        queries = [text.query for text in texts]
        deadline = max(text.deadline for text in texts)
        try:
            if any(text.tokens for text in texts):  # one call for all, and then also for those that need no more
                both = await self._encoder_attempts.run(
                    lambda: self._encoder.encode_tokens(queries, deadline), deadline
                )
                encoded: list[tuple[FloatArray, TextVectors | None]] = [
                    (one.vector, one if text.tokens else None) for one, text in zip(both, texts, strict=True)
                ]
            else:
                vectors = await self._encoder_attempts.run(lambda: self._encoder.encode(queries, deadline), deadline)
                encoded = [(vector, None) for vector in vectors]
        except (Overloaded, Unavailable, DeadlineExceeded):
            raise
        except Exception as error:
            logger.exception("the query encoder failed", extra=tracing.fields())
            raise ShoalError("the query encoder failed; the server's log says why") from error
        finished = now()
        return [_Encoded(vector, vectors, started, finished, len(texts)) for vector, vectors in encoded]

    async def _score(
        self, index: FanOut, query: TextVectors, candidates: list[Candidate], deadline: float
    ) -> tuple[list[Candidate], FloatArray | None, dict[int, str]]:
        """Have the shards score their candidates, float32 (n,); those of a shard that does not are left out.

        Returns the candidates as they are and None if no shard does, and why shards are missing.
        """
        scores, missing = await index.score(query, candidates, self._share_of(deadline))
        if not scores:
            return candidates, None, missing
        kept = _ranked(one for one in candidates if (one.shard, one.row) in scores)
        return kept, np.array([scores[one.shard, one.row] for one in kept], np.float32), missing

    async def _with_passages(
        self, index: FanOut, candidates: list[Candidate], read: Sequence[int], deadline: float
    ) -> tuple[list[Candidate], dict[int, str]]:
        """Fetch what did not come with the hits of the candidates at the places `read`; some may not be to be had."""
        lacking = [candidates[place] for place in read if candidates[place].passage is None]
        fetched, missing = await index.fetch(lacking, self._share_of(deadline))
        found = {place: passage for place, (passage, _) in fetched.items()}
        return [replace(one, passage=one.passage or found.get((one.shard, one.row))) for one in candidates], missing

    async def _with_vectors(
        self, index: FanOut, candidates: list[Candidate], results: list[Result], deadline: float
    ) -> tuple[list[Result], dict[int, str]]:
        places = {candidate.id: candidate for candidate in candidates}
        fetched, missing = await index.fetch([places[result.id] for result in results], deadline, with_vectors=True)
        vectors = {passage.id: vector for passage, vector in fetched.values()}
        return [replace(result, vector=vectors.get(result.id)) for result in results], missing


def _fits(texts: list[_Text], text: _Text) -> bool:
    if not text.tokens and not any(one.tokens for one in texts):
        return True
    return len(text.query) + sum(len(one.query) for one in texts) <= CHARACTERS_PER_CALL


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates in their order, numbered anew."""
    return [replace(one, rank=rank) for rank, one in enumerate(candidates, 1)]
