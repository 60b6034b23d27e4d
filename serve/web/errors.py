"""Errors over HTTP: one table from error classes to statuses, and one body, unless a dialect brings its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serve.web.head import ASKED
from serve.web.index_paths import ASKED_PATH
from shoal.engine.mistakes import explain_mistakes
from shoal.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    KeyReused,
    ModelUnavailable,
    NotFound,
    Overloaded,
    PermissionDenied,
    ShoalError,
    Unauthenticated,
    Unavailable,
)

STATUS: dict[type[ShoalError], int] = {
    InvalidArgument: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    Conflict: 409,
    KeyReused: 422,
    Overloaded: 429,
    ModelUnavailable: 503,
    Unavailable: 503,
    DeadlineExceeded: 504,
    ShoalError: 500,
}
"""Subclasses have the status of their nearest base here."""

CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "BODY_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}
"""`error.code` of what HTTP itself refuses before any code of Shoal's sees it."""

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""`error.type` of these statuses; that of others follows from the class of the status."""
RETRYABLE = (429, 503)
"""Statuses that come with Retry-After."""
MOST_PATH = 200
"""Characters of a path that a message repeats."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable name of the kind of error.", examples=["INVALID_ARGUMENT"])
    type: str = Field(description="Class of the error as the OpenAI SDKs know it.", examples=["invalid_request_error"])
    message: str = Field(description="For people: the place and the remedy.")
    param: str | None = Field(description="The field of the request that is wrong, if one is.", examples=["top_k"])


class ErrorBody(BaseModel):
    """The body of every error. `message` and `detail` repeat `error.message`, for the SDKs that read only those."""

    error: ErrorDetail
    message: str
    detail: str
    status: int


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as every dialect tells it, before it has a body.

    Args:
        status: Of the HTTP response.
        code: Stable name of the kind of error.
        message: For people: the place and the remedy.
        param: The field of the request that is wrong, if one is.
        extra: Further fields of a body of Shoal's own.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The class of the error as the OpenAI SDKs know it."""
        return TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")


ErrorBodyMaker: TypeAlias = Callable[[HttpError], Any]
"""Gives the body of an error, as what JSON can hold; it must not raise."""
ErrorBodyChooser: TypeAlias = Callable[[str, Headers], ErrorBodyMaker | None]
"""Chooses what makes the body, by the path and the headers of a request; None where it is not its dialect's."""


def shoal_error_body(error: HttpError) -> dict[str, Any]:
    """The body of `ErrorBody`, wherever no dialect has another."""
    return {
        "error": {"code": error.code, "type": error.type, "message": error.message, "param": error.param},
        "message": error.message,
        "detail": error.message,
        "status": error.status,
        **error.extra,
    }


def choose_error_body(
    scope: Scope, makers: Mapping[str, ErrorBodyMaker], choosers: Sequence[ErrorBodyChooser] = ()
) -> None:
    """Note in the scope of a request which body its errors have, whichever layer raises them.

    Args:
        scope: Of the request.
        makers: What makes bodies, by the prefix of the paths below which it does; the longest one counts.
        choosers: Are asked where no prefix is that of the path.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    prefixes = [prefix for prefix in makers if path == prefix or path.startswith(f"{prefix}/")]
    if prefixes:
        use_error_body(scope, makers[max(prefixes, key=len)])
        return
    headers = Headers(scope=scope)
    for chooser in choosers:
        if maker := chooser(path, headers):
            use_error_body(scope, maker)


def use_error_body(scope: Scope, maker: ErrorBodyMaker) -> None:
    """Note in the scope of a request what makes the body of its errors from now on."""
    scope.setdefault("state", {})[_MAKER] = maker


_MAKER = "error_body"
"""Key of the state of a request under which the maker of its error body lies."""

_DESCRIPTIONS = {
    400: "The request is wrong; `error.param` names the field.",
    401: "The server wants an API key, and there is none or it is none of its keys.",
    403: "The API key is not good for this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "The request does not fit the present state of the index.",
    413: "The body is larger than the server accepts.",
    415: "The body is not declared as JSON, or packed in another way than with gzip.",
    422: "The Idempotency-Key was used with another request.",
    429: "Too many queries are waiting, or the API key has asked too many; try again after Retry-After seconds.",
    500: "The server failed; its log has the reason under the request's x-request-id.",
    503: "Nothing could answer; try again after Retry-After seconds.",
    504: "The deadline passed before there was an answer.",
}
"""What the documentation of the API says of each status."""


def responses(*statuses: int, model: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """Declare the errors of a route for OpenAPI; any other error has the same body.

    Args:
        statuses: That the route is known to answer with.
        model: The body, for routes of a dialect whose `error_body` makes another one.
    """
    retry_after = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    declared: dict[int | str, dict[str, Any]] = {
        status: {
            "model": model,
            "description": _DESCRIPTIONS[status],
            **({"headers": retry_after} if status in RETRYABLE else {}),
        }
        for status in statuses
    }
    return {**declared, "default": {"model": model, "description": "Any other error."}}


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
    scope: Scope | None = None,
    **extra: Any,
) -> Response:
    """Build the response of an error.

    Args:
        status: Of the response.
        code: Stable name of the kind of error.
        message: For people: the place and the remedy.
        param: The field of the request that is wrong, if one is.
        headers: Of the response.
        retry_after_s: Seconds to wait, which the header Retry-After tells for RETRYABLE statuses; 1 by default.
        scope: Of the request, whose dialect may have a body of its own.
        extra: Further fields of Shoal's own body.
    """
    maker: ErrorBodyMaker = (scope or {}).get("state", {}).get(_MAKER, shoal_error_body)
    body = maker(HttpError(status, code, message, param, extra))
    headers = dict(headers or {})
    if status in RETRYABLE:
        headers["Retry-After"] = str(math.ceil(retry_after_s or 1))
    return Response(to_json(body), status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Give every error that a route raises its status and body."""
    app.exception_handler(ShoalError)(_shoal_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_validation_error)


def response_of(error: ShoalError, headers: Mapping[str, str] | None = None, scope: Scope | None = None) -> Response:
    """Build the response of an error that Shoal raises on purpose, in the body of the request's dialect."""
    status = next(STATUS[base] for base in type(error).__mro__ if base in STATUS)
    return error_response(
        status,
        error.code,
        error.message,
        param=error.param,
        headers=headers,
        retry_after_s=error.retry_after_s,
        scope=scope,
    )


async def _shoal_error(request: Request, error: ShoalError) -> Response:
    return response_of(error, scope=request.scope)


async def _http_error(request: Request, error: HTTPException) -> Response:
    message, headers = error.detail, dict(error.headers or {})
    state = request.scope.get("state", {})
    path: str = state.get(ASKED_PATH, request.scope["path"])  # not request.url, which fails on a query beyond UTF-8
    path = path if len(path) <= MOST_PATH else f"{path[:MOST_PATH]}..."
    if error.status_code == 404:
        message = f"there is no {path} here; see /docs"
    elif error.status_code == 405:
        method = state.get(ASKED, request.method)
        message = f"{method} is not allowed on {path}; see /docs"
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
    code = CODES.get(error.status_code, f"HTTP_{error.status_code}")
    return error_response(error.status_code, code, message, headers=headers, scope=request.scope)


async def _validation_error(request: Request, error: RequestValidationError) -> Response:
    if isinstance(error.body, bytes):  # FastAPI parses a body only if it is declared as JSON
        message = "send the body as JSON, with the header Content-Type: application/json"
        return error_response(415, CODES[415], message, scope=request.scope)
    found = error.errors()
    mistakes = [{**mistake, "loc": mistake["loc"][1:]} for mistake in found]  # without `body` or `query`
    asked = dict(request.query_params) if found[0]["loc"][0] == "query" else error.body
    message, param = explain_mistakes(mistakes, asked)
    return error_response(400, CODES[400], message, param=param, scope=request.scope)
