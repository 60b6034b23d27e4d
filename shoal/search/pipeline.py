"""One search from query to answer: encode, retrieve, shortlist, fetch, rerank, answer. Knows services, never Ray.

Long because the stages of one course stand together.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from shoal.errors import DeadlineExceeded, Overloaded, Unavailable
from shoal.filters import Filter
from shoal.index_root.manifest import Manifest
from shoal.namespaces import DEFAULT
from shoal.records import (
    FetchedPassages,
    FloatArray,
    ListedIds,
    ListedNamespaces,
    Result,
    SearchAnswer,
    SearchRequest,
)
from shoal.search.blend_stage import BlendStage
from shoal.search.consistency import see_position, seen_position, with_positions
from shoal.search.distinct import Distinct
from shoal.search.distinct_stage import make_distinct
from shoal.search.documents import look_up, select_ids
from shoal.search.encode_stage import EncodedQuery, EncodeStage, Wanted
from shoal.search.explain import explain
from shoal.search.facets import FacetCounting
from shoal.search.fanout import FanOut
from shoal.search.fusion import fuse
from shoal.search.highlight_stage import HighlightStage
from shoal.search.like_passage import given_vector, leave_out
from shoal.search.lookup import fetch_passages, list_ids
from shoal.search.merge import merge_results, ranked
from shoal.search.namespaces import count_namespace, list_namespaces
from shoal.search.no_results import explain_no_results
from shoal.search.ordered import retrieve_ordered
from shoal.search.request_plan import LATE, FilterTrees, RequestPlan
from shoal.search.rerank_stage import SecondStage, best_first, best_results
from shoal.search.search_spans import encoded_attributes, traced_search
from shoal.search.served_version import ServedVersion
from shoal.search.services import EncodeService, NullObserver, Observer, RerankService, ShardService
from shoal.search.shape_stage import next_page, shape_results, with_own_ids
from shoal.search.shard_client import PendingQuery
from shoal.search.spelling_stage import SpellingStage
from shoal.search.state import CallState, SearchState
from shoal.search.trace import SearchTrace, describe
from shoal.settings import ServeSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.stored_documents import StoredDocument
from shoal.system import spans, tracing

if TYPE_CHECKING:
    from shoal.search.live_index import LiveIndex

RERANKED_AT_ONCE = 16
"""Queries of one call that each reranker replica has at once: enough to fill its batches and for its pool to grow, and
less than its queue holds."""


class SearchPipeline:
    """Answers searches with an encoder, the shards of an index and, unless None, a reranker.

    Use it within one event loop.

    Args:
        encoder: The query encoder.
        shards: Those of the index, by their numbers.
        reranker: The second stage; None for none.
        settings: Of the server.
        clock: Seconds, what deadlines are compared with.
        observer: Hears of batches and shards.
        reranker_kind: What the reranker is, if its name does not tell (`shoal.rerankers.kind_of`).
    """

    def __init__(
        self,
        encoder: EncodeService,
        shards: Sequence[ShardService],
        reranker: RerankService | None,
        settings: ServeSettings,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
        reranker_kind: str | None = None,
    ) -> None:
        self._observer = observer or NullObserver()
        self._shards = shards
        self._settings = settings
        self._clock = clock
        self._fan_out: FanOut | None = None
        self._spelling = SpellingStage(settings, clock)
        self._encode_stage = EncodeStage(encoder, settings, clock, self._observer)
        self._second_stage = SecondStage(reranker, settings, clock, reranker_kind)
        self._blend_stage = BlendStage(settings, clock, reranker_kind)
        self._highlighting = HighlightStage(encoder, self._second_stage.sentence_scorer(), settings, clock)

    @property
    def version(self) -> str | None:
        """The version that new searches are answered from; None before the first `switch`."""
        return self._fan_out.version.name if self._fan_out else None

    def queues(self) -> dict[str, int]:
        """Count the queries that wait for each stage; of the shards, for the one that most wait for."""
        return {"encode": self._encode_stage.waiting, "retrieve": self._fan_out.waiting if self._fan_out else 0}

    def switch(self, version: ServedVersion, absent: Sequence[int] = (), live: "LiveIndex | None" = None) -> None:
        """Answer new searches from this version; those under way finish with theirs.

        Args:
            version: To answer from.
            absent: Shards that are not waited for until they answer.
            live: What the log has changed of it; None where none is followed.

        Raises:
            Conflict: The version has another number of shards.
        """
        self._fan_out = FanOut(version, self._shards, self._settings, self._clock, self._observer, absent, live)

    def switch_to(self, manifest: Manifest, absent: Sequence[int] = (), live: "LiveIndex | None" = None) -> None:
        """Answer new searches from the version that a manifest describes; see `switch`."""
        self.switch(ServedVersion.of(manifest), absent, live)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Answer one query.

        Shards that miss their share of the time are left out and named in `coverage`; without a reranker in time the
        answer is in stage-one order. Raises Overloaded at once when too many queries wait, DeadlineExceeded when the
        query could not be encoded or no shard answered in time, Unavailable when no shard answered or no version is
        served yet, InvalidArgument for a mode that the version has no index for, a filter that does not fit it, a
        recall that it does not reach, vectors that its kind cannot give, and token vectors that its shards do not hold.
        """
        (answer,) = await self.search_all([request])
        return answer

    async def search_all(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Answer several queries at once, in order. The first error is raised and gives up the others."""
        fan_out, arrived, trees = self._current(), self._clock(), FilterTrees()
        facets = FacetCounting(self._settings.max_facet_values)
        turns = asyncio.Semaphore(RERANKED_AT_ONCE * max(1, self._settings.reranker_min_replicas))
        requests = await with_positions(fan_out.live, requests, self._share_of)
        # What is wrong costs nobody anything.
        plans = [self._plan(request, fan_out.version, trees) for request in requests]
        search = traced_search(self._search, self._settings.trace_queries) if spans.current() else self._search
        searches = [
            search(request, plan, fan_out, SearchTrace(self._clock, arrived), CallState(trees, facets, turns))
            for request, plan in zip(requests, plans, strict=True)
        ]
        tasks: list[asyncio.Task[SearchAnswer]] = []
        try:
            if len(searches) == 1:
                return [await searches[0]]
            tasks = [asyncio.ensure_future(search) for search in searches]
            return await asyncio.gather(*tasks)
        finally:
            facets.cancel()
            for task in tasks:
                task.cancel()

    async def fetch(
        self,
        ids: Sequence[str],
        deadline: float,
        with_vectors: bool = False,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> FetchedPassages:
        """Fetch passages of the version by their ids; see `shoal.search.lookup.fetch_passages`."""
        fan_out = self._current()
        await see_position(fan_out.live, min_position, self._share_of(deadline))
        return await fetch_passages(fan_out, ids, deadline, with_vectors, self._share_of, namespace, min_position)

    async def list_ids(
        self,
        prefix: str,
        limit: int,
        cursor: str | None,
        deadline: float,
        namespace: str = DEFAULT,
        min_position: int = 0,
    ) -> ListedIds:
        """List the ids of the version, a page at a time; see `shoal.search.lookup.list_ids`."""
        fan_out = self._current()
        await see_position(fan_out.live, min_position, self._share_of(deadline))
        return await list_ids(fan_out, prefix, limit, cursor, deadline, namespace, min_position)

    async def list_namespaces(self, prefix: str, limit: int, cursor: str | None, deadline: float) -> ListedNamespaces:
        """List the namespaces of the version; see `shoal.search.namespaces.list_namespaces`."""
        return await list_namespaces(self._current(), prefix, limit, cursor, deadline)

    async def count_namespace(self, namespace: str, deadline: float) -> int:
        """Count the passages of a namespace; see `shoal.search.namespaces.count_namespace`."""
        return await count_namespace(self._current(), namespace, deadline)

    async def look_up(self, documents: Sequence[str], min_position: int, deadline: float) -> dict[str, StoredDocument]:
        """Return documents as they are at a position of the log or later; see `shoal.search.documents.look_up`."""
        return await look_up(self._current(), documents, min_position, deadline)

    async def select_ids(self, tree: Filter | None, limit: int, min_position: int, deadline: float) -> list[str]:
        """Return ids of passages that fulfil a filter; see `shoal.search.documents.select_ids`."""
        return await select_ids(self._current(), tree, limit, min_position, deadline)

    def _current(self) -> FanOut:
        if self._fan_out is None:
            raise Unavailable("no index version is served yet; try again", retry_after_s=1)
        return self._fan_out

    def _plan(self, request: SearchRequest, version: ServedVersion, trees: FilterTrees) -> RequestPlan:
        has_reranker = self._second_stage.has_reranker
        return RequestPlan.resolve(request, version, self._settings, has_reranker=has_reranker, trees=trees)

    async def _search(
        self,
        request: SearchRequest,
        plan: RequestPlan,
        fan_out: FanOut,
        trace: SearchTrace,
        together: CallState,
    ) -> SearchAnswer:
        spelling = await self._spelling.spelled(request, fan_out.live, self._share_of(request.deadline), trace)
        encoded = await self._encode(request, spelling.text, plan, fan_out, trace)
        current = self._fan_out or fan_out  # read once: an answer never mixes two versions
        if current is not fan_out:
            plan = self._plan(request, current.version, together.trees)
            if plan.needs_tokens and encoded.tokens is None:
                plan = replace(plan, second_stage="reader")  # the version before had no token vectors to compare
        distinct = Distinct(current, request.shape) if request.shape.is_distinct else None
        search = SearchState(request, spelling, plan, current, trace, encoded, distinct)
        facets, fields = together.facets, request.shape.facets
        facets.start(current, fields, plan.filter, self._share_of(request.deadline))
        await self._find(search)
        await self._shortlist(search)
        await self._fetch(search)
        await self._rerank(search, together.turns)
        search.facets = await facets.counts(current, fields, plan.filter, trace)
        return await self._answer(search)

    async def _encode(
        self, request: SearchRequest, text: str, plan: RequestPlan, fan_out: FanOut, trace: SearchTrace
    ) -> EncodedQuery:
        """Encode what stage one or the second stage needs as vectors; those that are given are not waited for."""
        vector = await given_vector(request, fan_out, trace, self._share_of)
        if not (plan.needs_tokens or plan.needs_terms) and (vector is not None or not plan.needs_vector):
            return EncodedQuery.not_encoded(trace.arrived, vector)
        try:
            with_vector = vector is None and plan.needs_vector
            encoded = await self._encode_text(request, text, plan, trace, with_vector=with_vector)
        except (Unavailable, Overloaded) as error:
            if plan.needs_terms or (vector is None and plan.needs_vector):
                raise
            # Stage one needs no encoder; what the second stage wants of it is left out, as one that is away.
            return EncodedQuery.not_encoded(trace.arrived, vector, error.message)
        return encoded if vector is None else replace(encoded, vector=vector)

    async def _encode_text(
        self, request: SearchRequest, text: str, plan: RequestPlan, trace: SearchTrace, *, with_vector: bool
    ) -> EncodedQuery:
        version = plan.version
        reads = with_vector or plan.needs_tokens
        if reads:
            version.require_encoder()
        may_be_cut = reads and version.may_cut(text)
        wanted = Wanted(with_vector, plan.needs_tokens, plan.needs_terms, may_be_cut)
        with spans.work("encode") as work:
            encoded = await self._encode_stage.encode(text, request.deadline, wanted, request.instruction)
            work.describe(lambda: encoded_attributes(encoded, trace.arrived))
        if may_be_cut and (warning := version.cut_warning(encoded.length)):
            trace.warnings.append(warning)
        trace.add("queue", encoded.started - trace.arrived)
        trace.add("encode", encoded.finished - encoded.started)
        return encoded

    async def _find(self, search: SearchState) -> None:
        """Find the candidates: by the query, different ones and behind the page before; or by the order of a field."""
        if (order_by := search.request.shape.order_by) is not None:
            await retrieve_ordered(search, order_by, self._share_of)
            return
        await self._retrieve(search)
        await make_distinct(search, self._retrieve, self._share_of, self._settings.max_group_window)
        if (cursor := search.plan.after) is not None:
            search.candidates = [candidate for candidate in search.candidates if cursor.is_before(candidate)]

    async def _retrieve(self, search: SearchState) -> None:
        """Ask the shards, and make one ranking of their hits."""
        request, plan, trace = search.request, search.plan, search.trace
        with trace.stage("retrieve"):
            vector = search.encoded.vector if plan.needs_vector else None
            live = search.fan_out.live if "lexical" in plan.retrievers else None
            statistics = None if live is None else live.statistics_of(request.query, search.spelling.terms)
            query = ShardQuery(request.query, vector, plan.mode, plan.filter, plan.search_params, statistics)
            if plan.needs_terms:
                query = replace(query, terms=search.encoded.terms)
            deadline = self._share_of(request.deadline)
            with_passages = search.distinct is None and plan.after is None
            pending = PendingQuery(
                query, plan.window, deadline, tracing.requests(), with_passages, request.min_position, spans.current()
            )
            search.results, missing = await search.fan_out.search(pending)
            trace.missing |= missing
        with trace.stage("merge"):
            rankings = merge_results(search.results, plan.retrievers, plan.window)
            rankings = leave_out(rankings, request)
            if len(rankings) == 1:
                (ranking,) = rankings.values()
                search.candidates = ranking[: plan.depth] if search.distinct is None else ranking
            else:
                depth = plan.depth if search.distinct is None else sys.maxsize
                search.candidates = fuse(rankings, self._settings, depth)
                search.max_lexical_score = max(
                    (candidate.score for candidate in rankings.get("lexical", [])[:1]), default=0.0
                )
        if not search.candidates and (why := explain_no_results(search.spelling.text, plan, search.results.values())):
            trace.warnings.append(why)

    async def _shortlist(self, search: SearchState) -> None:
        """Let the shards score their candidates, for an answer without a reranker or for the choice of what it reads.

        Those of a shard that does not are left out. If none does, the candidates stay as they are, those of all shards.
        """
        plan, trace, tokens = search.plan, search.trace, search.encoded.tokens
        if not plan.needs_tokens:
            return
        if tokens is None:
            as_found = range(len(search.candidates))
            if plan.is_late:
                self._use_shard_scores(search, None, as_found, search.encoded.problem)
            else:
                self._choose(search, as_found, search.encoded.problem)
            return
        with trace.stage("rerank"):
            deadline = self._share_of(search.request.deadline)
            scores_by_row, missing = await search.fan_out.score(tokens, search.candidates, deadline)
            scores: FloatArray | None = None
            unscored = None
            if scores_by_row:
                search.candidates = ranked(c for c in search.candidates if c.ref in scores_by_row)
                scores = np.array([scores_by_row[c.ref] for c in search.candidates], np.float32)
            elif search.candidates:
                unscored = f"no shard scored its passages ({describe(missing)})"
            if not unscored:
                trace.missing |= missing
            final_scores = self._second_stage.shortlist_scores(
                plan, scores, search.candidates, search.max_lexical_score
            )
            order = best_first(len(search.candidates), final_scores)
            if plan.is_late:
                self._use_shard_scores(search, scores, order, unscored)
            else:
                self._choose(search, order, unscored)

    def _use_shard_scores(
        self, search: SearchState, scores: FloatArray | None, order: Sequence[int], unscored: str | None
    ) -> None:
        """Take the scores of the shards for those of the answer, of which alone texts are read."""
        search.scores = scores
        if not search.request.shape.needs_all and not self._blend_stage.is_for(search):
            search.positions_to_fetch = order[: search.request.top_n]
        if unscored:
            search.trace.degrade("not_scored", f"not reranked: {unscored}")

    def _choose(self, search: SearchState, order: Sequence[int], unscored: str | None) -> None:
        """Keep the candidates that the reranker reads, in stage-one order."""
        if search.distinct is not None:
            best = [search.candidates[position] for position in order]
            best = search.distinct.choose(best, search.request.top_n, search.plan.shortlist_size)
            search.candidates = sorted(best, key=lambda candidate: candidate.rank)
        else:
            chosen = sorted(order[: search.plan.shortlist_size])
            search.candidates = [search.candidates[position] for position in chosen]
        if unscored:
            count = len(search.candidates)
            text = f"the reranker read the first {count} of stage one: {unscored}"
            search.trace.degrade("not_shortened", text)

    async def _fetch(self, search: SearchState) -> None:
        """Fetch the passages that did not come with the hits; candidates without one are left out."""
        trace, plan = search.trace, search.plan
        with trace.stage("fetch"):
            candidates = search.candidates
            positions = range(len(candidates)) if search.positions_to_fetch is None else search.positions_to_fetch
            lacking = [candidates[position] for position in positions if candidates[position].passage is None]
            if not lacking:
                return
            fetched, missing = await search.fan_out.fetch(lacking, self._share_of(search.request.deadline))
            trace.missing |= missing
            passages = {ref: passage for ref, (passage, _) in fetched.items()}
            candidates = [replace(c, passage=c.passage or passages.get(c.ref)) for c in candidates]
            if not plan.is_late:
                with_passages = (c for c in candidates if c.passage)
                keeps_ranks = plan.second_stage == "shortlist" or search.distinct is not None or plan.after is not None
                candidates = list(with_passages) if keeps_ranks else ranked(with_passages)
            search.candidates = candidates
            if not any(candidate.passage for candidate in candidates):
                if set(missing.values()) == {"overloaded"}:  # busy and not broken
                    raise Overloaded("too many queries wait for the texts of their passages; try again later")
                if set(missing.values()) == {"deadline"}:
                    raise DeadlineExceeded("no shard sent its passages within the deadline; allow more time")
                raise Unavailable(f"no shard sent its passages ({describe(trace.missing)}); try again", retry_after_s=1)

    async def _rerank(self, search: SearchState, turns: asyncio.Semaphore) -> None:
        """Let the reranker score the candidates, unless the shards have done so.

        Args:
            turns: For which the queries of one call wait, so that a long list does not overrun the reranker's queue.
        """
        if search.plan.is_late:
            return
        with search.trace.stage("rerank"):
            if not search.request.rerank:
                return
            async with turns:
                request = replace(search.request, query=search.spelling.text)
                search.scores, degradations = await self._second_stage.score(request, search.candidates)
        for reason, text in degradations.items():
            search.trace.degrade(reason, text)

    async def _answer(self, search: SearchState) -> SearchAnswer:
        """Order the candidates, and tell how the answer came about."""
        request, plan, trace, scores = search.request, search.plan, search.trace, search.scores
        final_scores = self._second_stage.final_scores(plan, scores, search.candidates, search.max_lexical_score)
        final_scores = await self._blend_stage.order(search, final_scores)
        count = len(search.candidates) if request.shape.needs_all else request.top_n
        results = best_results(search.candidates, scores, final_scores, count)
        results = await shape_results(search, results, self._highlighting)
        if request.include_vector and results:
            results = await self._with_vectors(search, results)
        degradations = trace.degradations(len(self._shards))
        return SearchAnswer(
            index_version=plan.version.name,
            results=with_own_ids(results, request.namespace),
            reranked=scores is not None,
            coverage=search.fan_out.coverage(trace.missing),
            degraded="; ".join(degradations.values()) or None,
            timings=trace.timings(),
            pairs=len(search.candidates) if scores is not None else 0,
            mode=plan.mode,
            reranker=None if scores is None else LATE if plan.is_late else self._settings.reranker,
            explain=self._explain(search) if request.explain else None,
            degradations=tuple(degradations),
            warnings=tuple(trace.warnings),
            facets=search.facets,
            next=next_page(search, results),
            position=seen_position(search.fan_out.live, search.results.values()),
        )

    def _explain(self, search: SearchState) -> dict[str, object]:
        batch, missing = search.encoded.batch, search.trace.missing
        return explain(search.request, search.plan, batch, search.results, missing, search.candidates, search.scores)

    async def _with_vectors(self, search: SearchState, results: list[Result]) -> list[Result]:
        """Add their vectors to results; some may not be to be had."""
        by_id = {candidate.id: candidate for candidate in search.candidates}
        wanted = [by_id[result.id] for result in results]
        fetched, missing = await search.fan_out.fetch(wanted, search.request.deadline, with_vectors=True)
        if missing:
            search.trace.degrade("vectors", f"some vectors are missing ({describe(missing)})")
        vectors = {passage.id: vector for passage, vector in fetched.values()}
        return [replace(result, vector=vectors.get(result.id)) for result in results]

    def _share_of(self, deadline: float) -> float:
        """The part of the time until a deadline that a call to the shards may take."""
        now = self._clock()
        return now + self._settings.retrieve_share * (deadline - now)
