"""Getting answers to evaluate: from a server, or from an index root with the server's own pipeline in this process."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, Unpack, get_args

import numpy as np

from shoal.client.answers import IndexDescription, SearchResponse
from shoal.client.clients import Client, SearchOptions
from shoal.encoders import Encoder, load_encoder
from shoal.errors import InvalidArgument
from shoal.evaluation.runs import DEPTH, Run
from shoal.index_root.cache import ShardCache
from shoal.index_root.manifest import Manifest
from shoal.index_root.storage import Storage
from shoal.modes import RETRIEVERS_OF, Mode, modes_of, retrievers_of
from shoal.records import Candidate, FloatArray, Passage, Rerank, SearchAnswer, SearchRequest, Spelling
from shoal.rerankers import Reranker, kind_over, load_reranker
from shoal.search.fusion import late_kind
from shoal.search.local import LocalModels, LocalVersion
from shoal.search.merge import merge_results
from shoal.search.shard_client import ShardResult
from shoal.serving.plan import NO_RERANKER, check_encoder, plan_serving
from shoal.settings import EvaluateSettings, FusionSettings, SecondStageSettings, ServeSettings, SpellingSettings
from shoal.shard.messages import ShardQuery
from shoal.shard.retrievers import retriever_names

RANKING = frozenset(
    name for model in (FusionSettings, SpellingSettings, SecondStageSettings) for name in model.model_fields
)
"""Options of ranking that an index which is evaluated here takes for each evaluation."""


Stage: TypeAlias = Rerank | Literal["blend"]
"""What orders an answer that is measured; `blend` is a reranker and a learned blend, which all others do without."""


class Asker(Protocol):
    """Somebody who answers queries. A context manager.

    modes: how it can search, reranks: whether it has a reranker, late: whether its shards hold token vectors, and
    blends: whether it was given a learned blend.
    """

    modes: Sequence[Mode]
    reranks: bool
    late: bool
    blends: bool

    def ask(self, query: str, mode: Mode, rerank: Stage, top_k: int) -> tuple[list[str], bool]:
        """Return the ids of `top_k` passages, best first, and whether the answer is all that was asked for."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_asker(settings: EvaluateSettings) -> Asker:
    """Open the index root or the server that the settings name. Raises InvalidArgument unless it is one of them."""
    if (settings.index is None) == (settings.url is None):
        raise InvalidArgument("give either --index ROOT or --url URL", param="index")
    if settings.url is not None:
        if given := sorted(RANKING & settings.model_fields_set):
            raise InvalidArgument(
                f"{given[0]} is an option of the server behind --url; give --index, where each evaluation may have "
                "another",
                param=given[0],
            )
        return ServerAsker(settings.url, settings.timeout_ms)
    serve = ServeSettings(
        index=settings.index or "",
        reranker=settings.reranker if settings.rerank in ("both", "yes") else NO_RERANKER,
        **settings.model_dump(include=set(RANKING)),
        device=settings.device,
        encoder_threads=settings.threads,
        retriever_threads=settings.threads,
        reranker_threads=settings.threads,
    )
    plan = plan_serving(serve)
    encoder = load_encoder(plan.encoder)
    check_encoder(encoder.fingerprint(), plan.manifest.encoder)
    reranker = load_reranker(plan.reranker) if plan.reranker else None
    return LocalAsker(Storage(serve.index), plan.manifest, encoder, reranker, serve, settings.timeout_ms)


def ask_all(asker: Asker, queries: dict[str, str], mode: Mode, rerank: Stage, top_k: int) -> Run:
    """Ask every query, one after the other, after one that warms up and is not measured."""
    name = f"{mode}+{'rerank' if rerank is True else rerank}" if rerank else mode
    run = Run(name, {}, {})
    degraded = 0
    if queries:
        asker.ask(next(iter(queries.values())), mode, rerank, top_k)
    for query, text in queries.items():
        started = time.perf_counter()
        ids, whole = asker.ask(text, mode, rerank, top_k)
        run.latency_ms[query] = 1000 * (time.perf_counter() - started)
        run.rankings[query] = ids[:DEPTH]
        degraded += not whole
    return Run(name, run.rankings, run.latency_ms, degraded)


class Searcher(Protocol):
    """A client of a server, or an index in this process."""

    def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResponse:
        """Search for one query."""
        ...

    def describe(self) -> IndexDescription:
        """Describe what is searched."""
        ...


class ClientAsker:
    """Asks whatever has the calls of a client; whoever has opened it closes it. timeout_ms: deadline of each query."""

    def __init__(self, client: Searcher, timeout_ms: int) -> None:
        self._client = client
        self._timeout_ms = timeout_ms
        description = client.describe()
        self.modes: Sequence[Mode] = [mode for mode in get_args(Mode) if mode in description.modes]
        self.reranks = description.models.get("reranker") is not None
        self.late = description.late_interaction == "stored"
        self.blends = False
        """What is served with a learned blend is asked as it is served."""

    def ask(self, query: str, mode: Mode, rerank: Stage, top_k: int) -> tuple[list[str], bool]:
        """Ask the client."""
        assert rerank != "blend"
        answer = self._client.search(
            query, mode=mode, rerank=rerank, top_k=top_k, top_n=top_k, include=[], timeout_ms=self._timeout_ms
        )
        return [result.id for result in answer.results], answer.degraded is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class ServerAsker(ClientAsker):
    """A server, asked over HTTP."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        self._http = Client(url, timeout_s=timeout_ms / 1000 + 10)
        super().__init__(self._http, timeout_ms)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()


class LocalAsker:
    """An index root, searched in this process by the pipeline of the server, without the hops between its parts."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        encoder: Encoder,
        reranker: Reranker | None,
        settings: ServeSettings,
        timeout_ms: int,
        cache: ShardCache | None = None,
    ) -> None:
        if not storage.is_local and cache is None:
            raise InvalidArgument(
                f"{storage.place()} is not on this machine's disk; serve it and give --url, or copy the root",
                param="index",
            )
        self._retrievers = retriever_names(manifest)
        self.modes: Sequence[Mode] = modes_of(self._retrievers)
        self.reranks = reranker is not None
        self.late = manifest.late is not None
        self.blends = settings.blend is not None
        self._timeout_s = timeout_ms / 1000
        self._corrects = settings.correct_spelling
        # What is asked in one mode after the other is encoded each time, so that the times can be compared.
        settings = settings.model_copy(update={"query_cache": 0})
        self.reranker_kind = kind_over(settings.reranker, manifest.encoder) if reranker else None
        self.late_kind = late_kind(manifest.encoder)
        self._models = LocalModels(encoder, reranker, settings, self.reranker_kind)
        self._version = LocalVersion(storage, manifest, self._models, settings, cache)
        self._runner = asyncio.Runner()

    def ask(self, query: str, mode: Mode, rerank: Stage, top_k: int) -> tuple[list[str], bool]:
        """Ask the pipeline."""
        if rerank == "blend":
            answer = self.answer(query, mode, True if self.reranks else "late", top_k, blend=True)
        else:
            answer = self.answer(query, mode, rerank, top_k)
        return [result.id for result in answer.results], answer.degraded is None

    def answer(
        self,
        query: str,
        mode: Mode,
        rerank: Rerank,
        top_k: int,
        explain: bool = False,
        top_n: int | None = None,
        blend: bool = False,
    ) -> SearchAnswer:
        """Ask the pipeline for all that it says; about `top_n` of the `top_k` passages, or all."""
        deadline = time.monotonic() + self._timeout_s
        request = SearchRequest(
            query=query,
            top_k=top_k,
            top_n=top_n or top_k,
            rerank=rerank,
            deadline=deadline,
            explain=explain,
            mode=mode,
            blend=blend,
        )
        return self._runner.run(self._version.search([request]))[0]

    def retrieve(self, query: str, mode: Mode, window: int) -> dict[str, list[Candidate]]:
        """Return what each retriever of a mode ranks first of the whole index, without fusing, by its name.

        Args:
            query: As it was typed.
            mode: Whose retrievers are asked.
            window: Passages of each at most.
        """
        vector, spelling, live = None, self.spelled(query), self._version.live
        if "dense" in RETRIEVERS_OF[mode]:
            deadline = time.monotonic() + self._timeout_s
            [vector] = self._runner.run(self._models.encoder.encode([spelling.text], deadline))
        statistics = live.statistics_of(query, spelling.terms) if "lexical" in RETRIEVERS_OF[mode] else None
        used, terms = retrievers_of(mode, self._retrievers), None
        if "sparse" in used:
            deadline = time.monotonic() + self._timeout_s
            [terms] = self._runner.run(self._models.encoder.encode_terms([spelling.text], deadline))
        asked = ShardQuery(query, vector, mode, statistics=statistics, terms=terms)
        results = {
            number: ShardResult(shard.search([asked], window, False), 0, 0.0, 1)
            for number, shard in enumerate(self._version.shards)
        }
        return merge_results(results, used, window)

    def score(self, query: str, candidates: Sequence[Candidate], rerank: Rerank) -> FloatArray:
        """Return, float32 (n,), what the second stage gives candidates: that which `rerank` names, not False."""
        deadline = time.monotonic() + self._timeout_s
        query = self.spelled(query).text
        if rerank == "late":
            [tokens] = self._runner.run(self._models.encoder.encode_tokens([query], deadline))
            scores = np.empty(len(candidates), np.float32)
            shards = np.array([candidate.ref.shard for candidate in candidates])
            rows = np.array([candidate.ref.row for candidate in candidates])
            for shard in set(shards.tolist()):
                scores[shards == shard] = self._version.shards[shard].score(tokens, rows[shards == shard])
            return scores
        if (reranker := self._models.reranker) is None:
            raise InvalidArgument("there is no reranker; leave rerank out", param="rerank")
        texts = [self.passage(candidate.ref.shard, candidate.ref.row).content for candidate in candidates]
        return self._runner.run(reranker.score(query, texts, deadline))

    def spelled(self, query: str) -> Spelling:
        """Return a query as the pipeline searches it."""
        live = self._version.live
        return live.open_speller().correct(query) if self._corrects and live.can_spell else Spelling(query)

    def passage(self, shard: int, row: int) -> Passage:
        """Return the passage in a row of a shard."""
        return self._version.passage(shard, row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._version.close()
        self._models.close()


def planned(settings: EvaluateSettings, asker: Asker) -> list[tuple[Mode, Stage]]:
    """What is asked: modes in their order, each without and with stage two; hybrid also with a learned blend.

    Raises InvalidArgument for a mode or a stage that there is none of.
    """
    for mode in settings.modes or ():
        if mode not in asker.modes:
            raise InvalidArgument(f"this index cannot be searched in mode {mode}", param="modes")
    if settings.rerank == "yes" and not asker.reranks:
        raise InvalidArgument("this server has no reranker; leave --rerank out", param="rerank")
    if settings.rerank == "late" and not asker.late:
        raise InvalidArgument(
            "this version holds no token vectors; build it with --late-interaction stored", param="rerank"
        )
    stages: dict[str, list[Stage]] = {"both": [False, True], "no": [False], "yes": [True], "late": [False, "late"]}
    modes = settings.modes or asker.modes
    return [
        (mode, stage)
        for mode in modes
        for stage in [*stages[settings.rerank], *_blended(asker, mode)]
        if asker.reranks or stage is not True
    ]


def _blended(asker: Asker, mode: Mode) -> list[Stage]:
    return ["blend"] if asker.blends and mode == "hybrid" else []


def ask_planned(asker: Asker, queries: dict[str, str], plan: Sequence[tuple[Mode, Stage]], top_k: int) -> list[Run]:
    """Ask all queries in every planned way."""
    return [ask_all(asker, queries, mode, rerank, top_k if rerank else DEPTH) for mode, rerank in plan]


def settings_of(settings: EvaluateSettings) -> dict[str, Any]:
    """The settings that decide an outcome, for its report."""
    shown = ["dataset", "split"] if settings.dataset else ["sample_judgements"]
    shown += ["index", "url", "queries", "top_k", "reranker", *sorted(RANKING & settings.model_fields_set)]
    return {name: value for name in shown if (value := getattr(settings, name)) is not None}
