"""Errors over gRPC: one table from error classes to statuses, as `serve.web.errors` has one for HTTP.

Pinecone's clients try again on UNAVAILABLE, RESOURCE_EXHAUSTED and ABORTED: only what may go better the next time has
one of these.
"""

import math

import grpc

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

STATUS: dict[type[ShoalError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    KeyReused: grpc.StatusCode.FAILED_PRECONDITION,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    ShoalError: grpc.StatusCode.INTERNAL,
}
"""Subclasses have the status of their nearest base here."""
RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
"""Statuses that come with how long to wait."""
MOST_MESSAGE = 2000
"""Characters of a message: it goes in a header, and clients take 8 KiB of these."""


def status_of(error: ShoalError) -> grpc.StatusCode:
    """The status of an error."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def message_of(error: ShoalError) -> str:
    """What a client is told of an error."""
    message = error.message
    return message if len(message) <= MOST_MESSAGE else f"{message[:MOST_MESSAGE]}..."


def waiting_of(error: ShoalError) -> dict[str, str]:
    """What tells clients how long to wait before they try again, by the names that they know; else empty."""
    if status_of(error) not in RETRYABLE:
        return {}
    seconds = error.retry_after_s or 1
    return {"retry-after": str(math.ceil(seconds)), "grpc-retry-pushback-ms": str(math.ceil(1000 * seconds))}
