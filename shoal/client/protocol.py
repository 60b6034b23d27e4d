"""How a client talks to a server: what a call sends, when it is sent again, and what its answer means.

Nothing here does input or output. A call is a generator that yields `Send` and `Wait`; `shoal.client.clients` has one
loop for blocking code and one for asyncio that carry these out.
"""

import builtins
import email.utils
import random
import re
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from shoal.client.answers import (
    Answer,
    EmbedResponse,
    FetchResponse,
    IndexDescription,
    IndexSummary,
    ListResponse,
    NamespacesResponse,
    RerankResponse,
    SearchResponse,
    SearchResponses,
)
from shoal.client.bodies import embed_request, render_body, render_query, rerank_request, search_request
from shoal.client.writes import (
    DeleteSummary,
    UpdateSummary,
    WriteCall,
    WriteProgress,
    WriteSummary,
    joined,
    selection_call,
)
from shoal.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShoalError,
    Unauthenticated,
    Unavailable,
)
from shoal.serving.index_name import is_index_name, no_such_index
from shoal.system.proxies import LOOPBACK

INDEXES = "/v1/indexes"
"""Where indexes are listed, and below which each is."""
BACKOFF_S = 0.1
"""Attempt n waits up to BACKOFF_S * 2**n seconds, on top of what the server's Retry-After says."""
MAX_BACKOFF_S = 5.0
"""Most seconds that an attempt waits on top of Retry-After."""
DIRECT: dict[str, None] = {f"all://{f'[{host}]' if ':' in host else host}": None for host in LOOPBACK}
"""`mounts` of an httpx client that asks no proxy for this machine, whatever the environment says."""
T = TypeVar("T")
A = TypeVar("A", bound=Answer)
S = TypeVar("S", WriteSummary, DeleteSummary, UpdateSummary)


@dataclass(frozen=True, slots=True)
class Send:
    """Ask the client to send a request; it answers with the response or throws the httpx.RequestError in."""

    method: str
    path: str
    content: bytes | None
    """JSON."""
    timeout_s: float
    key: str | None = None
    """The Idempotency-Key, if it has one."""

    @property
    def headers(self) -> dict[str, str]:
        """What the content is, and its key."""
        headers = {} if self.content is None else {"content-type": "application/json"}
        return headers if self.key is None else {**headers, "idempotency-key": self.key}


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask the client to wait."""

    seconds: float


Steps = Generator[Send | Wait, httpx.Response | None, T]


def split_url(url: str, index: str | None) -> tuple[str, str | None]:
    """Return the URL of a server, and the name of the index of it that is asked, which may stand at the end of the URL.

    Raises InvalidArgument for two different names.
    """
    server, found, name = url.rpartition(f"{INDEXES}/")
    if not found or not is_index_name(name):
        return url, index
    if index not in (None, name):
        raise InvalidArgument(f"the URL is that of the index {name!r}, and index is {index!r}; give one", param="index")
    return server, name


class ClientProtocol:
    """The calls of a server, each a generator that yields what is to be sent or waited for and returns the answer.

    Raises the classes of `shoal.errors`, with the server's message.
    """

    def __init__(self, url: str, timeout_s: float, attempts: int, index: str | None = None) -> None:
        """`index` is the name of the index that is asked; None for the server's default one."""
        if index is not None and not is_index_name(index):
            raise InvalidArgument(
                f"{index[:100]!r} is no name of an index: small letters, digits and dashes", param="index"
            )
        self.url = url
        self.timeout_s = timeout_s
        self.attempts = attempts
        self._of_index = "/v1/" if index is None else f"{INDEXES}/{index}/"

    def for_index(self, name: str) -> "ClientProtocol":
        """Return the calls for another index of the same server. Raises InvalidArgument for what is no name."""
        return ClientProtocol(self.url, self.timeout_s, self.attempts, name)

    def search(
        self, query: str | list[str] | None, options: Mapping[str, Any]
    ) -> Steps[SearchResponse | list[SearchResponse]]:
        """POST /v1/search: one response for a query, a list of them for a list of queries or of vectors."""
        answer = yield from self._request("POST", "/v1/search", search_request(query, options))
        if isinstance(answer, dict) and "responses" in answer:
            return self._read(SearchResponses, answer).responses
        return self._read(SearchResponse, answer)

    def fetch(
        self, ids: Sequence[str], include: Sequence[str] | None, namespace: str, min_position: int
    ) -> Steps[FetchResponse]:
        """POST /v1/passages/fetch."""
        given: dict[str, Any] = {"include": None if include is None else list(include)}
        given |= {"namespace": namespace or None, "min_position": min_position or None}
        body = {"ids": list(ids)} | {name: value for name, value in given.items() if value is not None}
        return self._read(FetchResponse, (yield from self._request("POST", "/v1/passages/fetch", body)))

    def list(
        self, prefix: str, limit: int | None, cursor: str | None, namespace: str, min_position: int
    ) -> Steps[ListResponse]:
        """GET /v1/passages."""
        given: dict[str, Any] = {"prefix": prefix or None, "limit": limit, "cursor": cursor}
        given |= {"namespace": namespace or None, "min_position": min_position or None}
        return self._read(ListResponse, (yield from self._request("GET", _path("/v1/passages", given))))

    def list_namespaces(self, prefix: str, limit: int | None, cursor: str | None) -> Steps[NamespacesResponse]:
        """GET /v1/namespaces."""
        given = {"prefix": prefix or None, "limit": limit, "cursor": cursor}
        return self._read(NamespacesResponse, (yield from self._request("GET", _path("/v1/namespaces", given))))

    def embed(self, inputs: Sequence[str], input_type: str, options: Mapping[str, Any]) -> Steps[EmbedResponse]:
        """POST /v1/embed."""
        body = embed_request(inputs, input_type, options)
        return self._read(EmbedResponse, (yield from self._request("POST", "/v1/embed", body)))

    def rerank(self, query: str, documents: Sequence[Any], options: Mapping[str, Any]) -> Steps[RerankResponse]:
        """POST /v1/rerank."""
        body = rerank_request(query, documents, options)
        return self._read(RerankResponse, (yield from self._request("POST", "/v1/rerank", body)))

    def write(self, calls: Iterable[WriteCall], summary: S, progress: WriteProgress | None) -> Steps[S]:
        """Send requests that write, one after another, and return what all of them did.

        What a request has not been answered is sent again with its key. The error of one that fails says how many
        passages those before it have done.
        """
        done = 0
        for call in calls:
            try:
                answer = yield from self._request("POST", call.path, call.body, key=call.key)
            except ShoalError as error:
                if done:
                    error.add_note(f"{done:,} passages were done by the requests before")
                raise
            summary = self._joined(summary, answer)
            done += call.size
            if progress is not None:
                progress(done)
        return summary

    def delete_selected(
        self, filter: Mapping[str, Any] | None, progress: WriteProgress | None, namespace: str
    ) -> Steps[DeleteSummary]:
        """POST /v1/passages/delete with a filter, or None for everything, until nothing is left to delete."""
        summary, more = DeleteSummary(), True
        while more:
            call = selection_call(filter, namespace)
            answer = yield from self._request("POST", call.path, call.body, key=call.key)
            summary = self._joined(summary, answer)
            more = bool(answer.get("more"))
            if progress is not None:
                progress(summary.deleted)
        return summary

    def _joined(self, summary: S, answer: Any) -> S:
        try:
            return joined(summary, answer)
        except (AttributeError, TypeError) as error:
            raise self._foreign(str(error)) from None

    def index(self) -> Steps[IndexDescription]:
        """GET /v1/index."""
        return self._read(IndexDescription, (yield from self._request("GET", "/v1/index")))

    def indexes(self) -> Steps[builtins.list[IndexSummary]]:
        """GET /v1/indexes."""
        answer = yield from self._request("GET", INDEXES)
        if not isinstance(answer, list):
            raise self._foreign("it is no list")
        return [self._read(IndexSummary, each) for each in answer]

    def create_index(
        self,
        name: str,
        encoder: str | None,
        dimension: int | None,
        metadata_types: Sequence[str] | None,
        text_field: str | None,
    ) -> Steps[IndexSummary]:
        """POST /v1/indexes."""
        given = {"name": name, "encoder": encoder, "dimension": dimension, "metadata_types": metadata_types}
        given["text_field"] = text_field
        body = {field: value for field, value in given.items() if value is not None}
        # Sent twice, it would find what it has made the first time.
        return self._read(IndexSummary, (yield from self._request("POST", INDEXES, body, repeatable=False)))

    def delete_index(self, name: str) -> Steps[None]:
        """DELETE /v1/indexes/NAME."""
        if not is_index_name(name):
            raise no_such_index(name)
        yield from self._request("DELETE", f"{INDEXES}/{name}", repeatable=False)

    def activate(self, version: str) -> Steps[IndexDescription]:
        """POST /v1/index/activate."""
        answer = yield from self._request("POST", "/v1/index/activate", {"version": version})
        return self._read(IndexDescription, answer)

    def rollback(self) -> Steps[IndexDescription]:
        """POST /v1/index/rollback."""
        # Rolling back twice is not rolling back once, so a call that may have arrived is never sent again.
        answer = yield from self._request("POST", "/v1/index/rollback", {}, repeatable=False)
        return self._read(IndexDescription, answer)

    def ready(self) -> Steps[bool]:
        """GET /readyz, once: the question is about now."""
        try:
            response = yield Send("GET", "/readyz", None, self.timeout_s)
        except httpx.RequestError:
            return False
        assert response is not None
        return response.is_success

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        repeatable: bool = True,
        key: str | None = None,
    ) -> Steps[Any]:
        """Send until there is an answer, and return its JSON. Raises what the last attempt ended with."""
        content = None if body is None else render_body(body)
        if not path.startswith(INDEXES):
            path = path.replace("/v1/", self._of_index, 1)
        deadline = time.monotonic() + self.timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                response = yield Send(method, path, content, max(deadline - time.monotonic(), 0.001), key)
                assert response is not None
                if response.is_success:
                    return self._json(response)
                error = self._refusal(response)
                # Overloaded says that nothing was done; Unavailable may come from a proxy whose server broke midway.
                again = isinstance(error, Overloaded) or (repeatable and isinstance(error, Unavailable))
            except httpx.RequestError as failure:
                error = self._unreachable(failure)
                never_arrived = isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)
                again = never_arrived or (repeatable and not isinstance(failure, httpx.TimeoutException))
            # At random, so that clients that were refused together do not come back together.
            backoff = min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
            pause = (error.retry_after_s or 0.0) + random.random() * backoff  # noqa: S311
            if not again or attempt >= self.attempts or time.monotonic() + pause >= deadline:
                raise error
            yield Wait(pause)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except (ValueError, RecursionError):
            raise self._foreign("it is not JSON") from None

    def _read(self, model: type[A], answer: Any) -> A:
        try:
            return model.model_validate(answer)
        except ValidationError as error:
            first = error.errors()[0]
            raise self._foreign(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def _foreign(self, problem: str) -> ShoalError:
        return ShoalError(f"the answer of {self.url} is not one of a Shoal server of this version ({problem})")

    def _refusal(self, response: httpx.Response) -> ShoalError:
        """The error that a refusal stands for: of the class that the code in the body names, else the status."""
        try:
            body = response.json()
            detail = body["error"]
            code, message, param = str(detail["code"]), str(detail["message"]), detail.get("param")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            code, param = "", None
            message = f"{self.url} answered {response.status_code} {response.reason_phrase}: {response.text[:200]}"
        kind = _BY_CODE.get(code) or _BY_STATUS.get(response.status_code)
        if kind is None:
            kind = InvalidArgument if response.is_client_error else ShoalError
        return kind(message, param=param, retry_after_s=_retry_after(response.headers.get("retry-after")))

    def _unreachable(self, failure: httpx.RequestError) -> ShoalError:
        reason = str(failure) or type(failure).__name__
        error: ShoalError
        if isinstance(failure, httpx.TimeoutException) and not isinstance(failure, httpx.ConnectTimeout):
            error = DeadlineExceeded(f"{self.url} did not answer within {self.timeout_s:g} s")
        elif isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout):
            error = Unavailable(
                f"no server at {self.url} ({reason}); start one with `shoal serve --index ROOT`, or name another URL"
            )
        else:
            error = Unavailable(f"the connection to {self.url} broke ({reason})")
        error.__cause__ = failure
        return error


def _path(path: str, given: Mapping[str, Any]) -> str:
    """A path with those parameters that are given."""
    query = render_query({name: value for name, value in given.items() if value is not None})
    return f"{path}?{query}" if query else path


def _with_descendants(kind: type[ShoalError]) -> list[type[ShoalError]]:
    return [kind, *(descendant for child in kind.__subclasses__() for descendant in _with_descendants(child))]


_BY_CODE = {kind.code: kind for kind in _with_descendants(ShoalError) if "code" in vars(kind)}
"""The error that a server's `error.code` stands for: the one that brought it."""
_BY_STATUS: dict[int, type[ShoalError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    408: DeadlineExceeded,
    409: Conflict,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""The error that an HTTP status stands for, when the body names none."""


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as an HTTP date; None if it says nothing."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
