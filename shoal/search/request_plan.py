"""What is to be done for a request, worked out against a version before any of it is done."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shoal import filters
from shoal.errors import InvalidArgument
from shoal.filters import Filter, in_namespace
from shoal.modes import RETRIEVERS_OF, Mode, how_to_build, modes_of, retrievers_of
from shoal.namespaces import DEFAULT, check_namespace
from shoal.records import SearchRequest
from shoal.search.pages import Cursor, read_cursor
from shoal.search.served_version import ServedVersion
from shoal.search.shape import check_shape
from shoal.settings import ServeSettings

LATE = "late"
"""Name of the second stage that compares the token vectors which the shards hold."""
READ = "read"
"""What a request asks for whose candidates the reranker shall read, whatever the shards hold."""
LATE_INTERACTION = "late_interaction"
"""The reranker whose scores stored token vectors give as well."""
SecondStageKind = Literal["none", "reader", "late", "shortlist"]
"""What orders the candidates: stage one alone, a reranker that reads their texts, the token vectors of the shards, or
these and then the reranker, which reads those that they put first."""


class FilterTrees:
    """The filters of queries that came together, parsed once for each version.

    A filter can take milliseconds to parse, so queries that share one share its tree, which is in a message to a shard
    once.
    """

    def __init__(self) -> None:
        self._trees: dict[tuple[ServedVersion, int, str], Filter | None] = {}

    def parse(
        self,
        document: Mapping[str, Any] | None,
        version: ServedVersion,
        settings: ServeSettings,
        namespace: str = DEFAULT,
    ) -> Filter | None:
        """Check a filter against a version; returns it with the namespace that it is meant for.

        Raises InvalidArgument with the path to the fault, and for what is no name of a namespace.
        """
        key = version, id(document), namespace
        if key not in self._trees:
            limits = settings.max_filter_width, settings.max_filter_depth
            tree = filters.parse(document, version.fields, *limits) if document else None
            self._trees[key] = in_namespace(check_namespace(namespace), tree)
        return self._trees[key]


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """How a request is answered from a version.

    depth: candidates that stage one gives to what follows it.
    window: passages that each retriever finds in each shard.
    shortlist_size: candidates that the reranker reads, if the second stage is `shortlist`.
    filter: what passages must match, and their namespace; None for all of the default one.
    search_params: of the vector index, in the place of the version's own; "" for those.
    after: where the page before ended; None for the first page.
    last_place: up to which place of the ranking there are pages.
    is_ordered: whether a field puts the passages, and no query.
    """

    version: ServedVersion
    mode: Mode
    depth: int
    window: int
    second_stage: SecondStageKind
    shortlist_size: int
    filter: Filter | None
    search_params: str
    after: Cursor | None = None
    last_place: int = 0
    is_ordered: bool = False

    @classmethod
    def resolve(
        cls,
        request: SearchRequest,
        version: ServedVersion,
        settings: ServeSettings,
        *,
        has_reranker: bool,
        trees: FilterTrees | None = None,
    ) -> "RequestPlan":
        """Work out the plan of a request.

        Args:
            request: What was asked for.
            version: The version that answers.
            settings: Those of the server, for what the request leaves open.
            has_reranker: Whether the server has one.
            trees: Filters that were parsed for other queries of the same call.

        Raises:
            InvalidArgument: A filter or facets that do not fit the version, no name of a namespace, a recall that it
                does not reach, a mode that it has no index for, or token vectors that its shards do not hold.
        """
        _check_subject(request, version)
        check_shape(request, version.fields)
        tree = (trees or FilterTrees()).parse(request.filter, version, settings, request.namespace)
        search_params = version.search_params(request.recall)
        mode = _mode(request, version, settings)
        shortlist_size = max(settings.shortlist or request.top_k, request.top_n)
        second_stage = _second_stage(request, version, settings, has_reranker)
        if second_stage == "reader" and version.has_token_vectors and shortlist_size < request.top_k:
            second_stage = "shortlist"
        depth = _depth(request, second_stage)
        after = read_cursor(request, version.name, mode, version.fields, is_reranked=second_stage != "none")
        last_place = settings.max_page_depth
        is_ordered = request.shape.order_by is not None
        if is_ordered:
            last_place = sys.maxsize  # a page costs no more the deeper it lies
        elif len(RETRIEVERS_OF[mode]) > 1:
            last_place = min(last_place, settings.window)  # a larger window has another ranking
        if after is not None and not is_ordered:
            depth = min(after.count + depth, last_place)
        window = max(depth, settings.window) if len(RETRIEVERS_OF[mode]) > 1 else depth
        window += request.passage_id is not None  # which is found too, and left out
        return cls(
            version,
            mode,
            depth,
            window,
            second_stage,
            shortlist_size,
            tree,
            search_params,
            after,
            last_place,
            is_ordered,
        )

    @property
    def retrievers(self) -> tuple[str, ...]:
        """Names of the retrievers that the mode uses."""
        return retrievers_of(self.mode, self.version.retrievers)

    @property
    def is_late(self) -> bool:
        """Whether the token vectors of the shards order the answer."""
        return self.second_stage == "late"

    @property
    def needs_vector(self) -> bool:
        """Whether stage one needs the vector of the query."""
        return not self.is_ordered and "dense" in self.retrievers

    @property
    def needs_terms(self) -> bool:
        """Whether stage one needs the learned terms of the query."""
        return not self.is_ordered and "sparse" in self.retrievers

    @property
    def needs_tokens(self) -> bool:
        """Whether the second stage needs the token vectors of the query."""
        return self.second_stage in ("late", "shortlist")


def _depth(request: SearchRequest, second_stage: SecondStageKind) -> int:
    shape = request.shape
    if second_stage != "none" or shape.diversity > 0:
        return request.top_k
    # Each group has a result for each of its passages.
    return request.top_n * shape.group_by.size if shape.group_by else min(request.top_k, request.top_n)


def _check_subject(request: SearchRequest, version: ServedVersion) -> None:
    """Check that what is looked for and how go together."""
    if request.instruction is not None:
        version.check_instruction(request.instruction)
    if request.vector is not None:
        version.check_dimensions(request.vector)
    if not request.brings_vector:
        return
    given = "vector" if request.vector is not None else "id"
    if request.mode in ("lexical", "sparse") or (request.mode == "hybrid" and not request.query):
        reason = "reads no vector" if request.query else "needs words, and there is no query"
        remedy = f"leave {given} out, or use another mode" if request.query else "add one, or leave mode out"
        raise InvalidArgument(f"mode {request.mode} {reason}; {remedy}", param="mode")
    if request.rerank and not request.query:
        raise InvalidArgument(
            "rerank needs a text to compare with, and there is no query; add one, or leave rerank out", param="rerank"
        )


def _mode(request: SearchRequest, version: ServedVersion, settings: ServeSettings) -> Mode:
    """The mode of a request, or else of this server, which is one that the version can answer."""
    preferred = request.mode or settings.mode
    if request.brings_vector and request.mode is None:  # a server that searches by words reads vectors that are sent
        preferred = "auto" if request.query else "dense"
    if preferred == "auto":
        return "hybrid" if set(RETRIEVERS_OF["hybrid"]) <= set(version.retrievers) else "dense"
    for name in RETRIEVERS_OF[preferred]:
        if name not in version.retrievers:
            raise InvalidArgument(
                f"mode {preferred} needs a {name} index, which version {version.name} has not; use "
                f"{' or '.join(modes_of(version.retrievers)) or 'another version'}, or {how_to_build(name)}",
                param="mode",
            )
    return preferred


def _second_stage(
    request: SearchRequest, version: ServedVersion, settings: ServeSettings, has_reranker: bool
) -> SecondStageKind:
    """What orders the candidates, but for whether a reader gets a shorter list."""
    if request.rerank == LATE:
        if not version.has_token_vectors:
            raise InvalidArgument(
                f"rerank late needs token vectors, which the shards of version {version.name} do not hold; build it "
                "with --late-interaction stored, or leave it out",
                param="rerank",
            )
        return "late"
    if not request.rerank or not has_reranker:
        return "none"
    return "late" if _compares_stored_tokens(request, version, settings) else "reader"


def _compares_stored_tokens(request: SearchRequest, version: ServedVersion, settings: ServeSettings) -> bool:
    """Whether the shards have what the server's reranker would compute, and nobody wants it to be computed.

    Whoever sets a shortlist wants the reranker to read.
    """
    wanted = request.rerank != READ and settings.stored_tokens and settings.shortlist is None
    return wanted and version.has_token_vectors and settings.reranker == LATE_INTERACTION
