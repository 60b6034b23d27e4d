"""What an engine refuses, whoever asks: more than the settings of its server allow, and texts that say nothing.

A dialect may check the same first, with the names of its own fields; one that checks nothing harms no shard.
"""

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter

from shoal.errors import InvalidArgument
from shoal.records import SearchRequest
from shoal.settings import ServeSettings
from shoal.writing.requests import DeleteRequest, UpdateRequest, WriteRequest


class RequestLimits:
    """Checks requests against the limits of a server. Raises InvalidArgument, which names the field at fault.

    Args:
        settings: Of the server.
        clock: That of deadlines, in seconds.
    """

    def __init__(self, settings: ServeSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock

    def check_search(self, requests: Sequence[SearchRequest]) -> None:
        """Check the queries of one request: texts, sizes, the answer as a whole, and the time."""
        settings = self._settings
        most = most_queries(settings)
        if not requests:
            return
        if len(requests) > most:
            raise InvalidArgument(f"query should have at most {most:,} texts, not {len(requests):,}", param="query")
        for query, group in groupby(requests, attrgetter("query")):
            of_query = list(group)
            if query or not all(request.brings_vector for request in of_query):
                self.check_query(query)
            for request in of_query:
                if (instruction := request.instruction) is not None and (problem := _text_problem(instruction)):
                    raise InvalidArgument(f"instruction {problem}", param="instruction")
                self._check_passage(request.passage_id)
                self._check_sizes(request)
        for deadline in {request.deadline for request in requests}:  # the greatest of them and NaN is either
            self._check_deadline(deadline)
        candidates = sum(
            max(request.top_k, _results(request)) if request.explain else _results(request) for request in requests
        )
        vectors = sum(_results(request) for request in requests if request.include_vector)
        check_answer(settings, len(requests), candidates, vectors, explain=any(request.explain for request in requests))

    def check_query(self, query: str, param: str = "query") -> None:
        """Check the text of a query."""
        problem = query_problem(query, self._settings)
        if problem:
            raise InvalidArgument(f"{param} {problem}", param=param)

    def check_fetch(self, ids: Sequence[str], deadline: float, *, with_vectors: bool) -> None:
        """Check the ids of passages that shall be fetched."""
        most = min(self._settings.max_ids, self._settings.max_vectors if with_vectors else self._settings.max_ids)
        if not 1 <= len(ids) <= most:
            what = " with their vectors" if with_vectors else ""
            raise InvalidArgument(f"ids should have 1 to {most:,} ids{what}, not {len(ids):,}", param="ids")
        for number, id_ in enumerate(ids):
            if problem := "should not be empty" if not id_ else self._id_problem(id_):
                raise InvalidArgument(f"ids[{number}] {problem}", param=f"ids[{number}]")
        self._check_deadline(deadline)

    def check_write(self, request: WriteRequest | DeleteRequest | UpdateRequest) -> None:
        """Check how much a write writes, and ids that are looked up; what it writes is checked where it is prepared."""
        most = self._settings.max_passages
        ids: Sequence[str] = ()
        match request:
            case WriteRequest():
                field, count = "passages", len(request.passages)
            case UpdateRequest():
                field, count, ids = "updates", len(request.updates), [update.id for update in request.updates]
            case _:
                field, count, ids = "ids", 1 if request.ids is None else len(request.ids), request.ids or ()
        if not 1 <= count <= most:
            raise InvalidArgument(f"{field} should be 1 to {most:,}, not {count:,}", param=field)
        for number, id_ in enumerate(ids):
            if problem := self._id_problem(id_):
                param = f"{field}[{number}]" + (".id" if isinstance(request, UpdateRequest) else "")
                raise InvalidArgument(f"{param} {problem}", param=param)

    def check_list(self, prefix: str, limit: int, deadline: float) -> None:
        """Check what lists ids; its cursor is checked where it is read."""
        if problem := self._id_problem(prefix):
            raise InvalidArgument(f"prefix {problem}", param="prefix")
        most = self._settings.max_ids
        if not 1 <= limit <= most:
            raise InvalidArgument(f"limit should be 1 to {most:,}, not {limit:,}", param="limit")
        self._check_deadline(deadline)

    def _id_problem(self, id_: str) -> str | None:
        return _encoding_problem(id_) or _length_problem(id_, self._settings.max_id_bytes)

    def _check_texts(self, texts: Sequence[str], deadline: float, *, are_queries: bool, most: int, param: str) -> None:
        """Check texts that are embedded or reranked.

        Args:
            texts: The texts.
            deadline: Of the request.
            are_queries: Whether each may only be as long as a query; else all together as long as a body.
            most: How many there may be.
            param: The field that holds them.
        """
        settings = self._settings
        if len(texts) > most:
            raise InvalidArgument(f"{param} should have at most {most:,} texts, not {len(texts):,}", param=param)
        size = 0
        for number, text in enumerate(texts):
            problem = query_problem(text, settings) if are_queries else _text_problem(text)
            if problem:
                raise InvalidArgument(f"{param}[{number}] {problem}", param=f"{param}[{number}]")
            size += _utf8_length(text)
        if not are_queries and size > settings.max_body_bytes:
            raise InvalidArgument(
                f"{param} should have at most {settings.max_body_bytes:,} bytes of UTF-8 together, not {size:,}",
                param=param,
            )
        self._check_deadline(deadline)

    def check_embed(self, texts: Sequence[str], deadline: float, *, are_queries: bool) -> None:
        """Check texts that shall be encoded."""
        most = self._settings.max_vectors
        self._check_texts(texts, deadline, are_queries=are_queries, most=most, param="inputs")

    def check_rerank(self, query: str, documents: Sequence[str], deadline: float) -> None:
        """Check a query and the documents that shall be scored for it."""
        self.check_query(query)
        most = self._settings.max_top_k
        self._check_texts(documents, deadline, are_queries=False, most=most, param="documents")

    def _check_passage(self, passage_id: str | None) -> None:
        if passage_id is not None and (problem := self._id_problem(passage_id)):
            raise InvalidArgument(f"id {problem}", param="id")

    def _check_sizes(self, request: SearchRequest) -> None:
        most = self._settings.max_top_k
        for param, size in (("top_k", request.top_k), ("top_n", request.top_n)):
            if not 1 <= size <= most:
                raise InvalidArgument(f"{param} should be 1 to {most:,}, not {size:,}", param=param)
        check_order(request.top_k, request.top_n)
        self._check_facets(request)

    def _check_facets(self, request: SearchRequest) -> None:
        facets, settings = request.shape.facets, self._settings
        if len(facets) > settings.max_facets:
            raise InvalidArgument(
                f"facets should be at most {settings.max_facets:,}, not {len(facets):,}", param="facets"
            )
        most = settings.max_facet_limit
        for number, facet in enumerate(facets):
            if not 1 <= facet.limit <= most:
                param = f"facets[{number}].limit"
                raise InvalidArgument(f"{param} should be 1 to {most:,}, not {facet.limit:,}", param=param)

    def _check_deadline(self, deadline: float) -> None:
        most = self._settings.max_timeout_ms
        if not 1000 * (deadline - self._clock()) <= most:  # nor what is no number
            raise InvalidArgument(f"timeout_ms should be at most {most:,}; ask for less time", param="timeout_ms")


def _results(request: SearchRequest) -> int:
    """Count the results that a request has at most."""
    return request.top_n * (request.shape.group_by.size if request.shape.group_by else 1)


def most_queries(settings: ServeSettings) -> int:
    """How many queries one request may hold."""
    return min(settings.max_queries, settings.max_waiting)


def query_problem(query: str, settings: ServeSettings) -> str | None:
    """Say what is wrong with the text of a query, None if nothing is."""
    if problem := _text_problem(query):
        return problem
    return _length_problem(query, settings.max_query_bytes)


def check_order(top_k: int, top_n: int) -> None:
    """Check that sizes fit each other. Raises InvalidArgument."""
    if top_n > top_k:
        raise InvalidArgument(
            f"top_n should be at most top_k ({top_k}), not {top_n}: only candidates are returned", param="top_n"
        )


def check_answer(settings: ServeSettings, queries: int, results: int, vectors: int, *, explain: bool) -> None:
    """Check the size of an answer. Raises InvalidArgument for more than the settings allow.

    Args:
        settings: Of the server.
        queries: How many queries it answers.
        results: Of all queries together; candidates where these are explained.
        vectors: Results of all queries together that have their vectors.
        explain: Whether candidates are explained.
    """
    limits = (
        ("top_k" if explain else "top_n", results, settings.max_results, ""),
        ("top_n", vectors, settings.max_vectors, " with vectors"),
    )
    for param, count, most, what in limits:
        if count > most:
            raise InvalidArgument(
                f"{param} {count // queries} of {queries} queries makes {count:,} results{what}, more than the "
                f"{most:,} of one answer; ask for fewer, or in several requests",
                param=param,
            )


def _text_problem(text: str) -> str | None:
    return "should not be blank" if not text.strip() else _encoding_problem(text)


def _encoding_problem(text: str) -> str | None:
    try:
        _utf8_length(text)
    except UnicodeEncodeError:
        return "should be Unicode text, without lone surrogates"
    return None


def _length_problem(text: str, most: int) -> str | None:
    size = _utf8_length(text)
    return f"should be at most {most} bytes of UTF-8, not {size}" if size > most else None


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
