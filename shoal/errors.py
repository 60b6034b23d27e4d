"""Every error that Shoal raises on purpose.

ShoalError
├── InvalidArgument      the caller's input is wrong; `param` names the place
├── Unauthenticated      the server wants an API key, and this is none of its keys
├── PermissionDenied     the API key is not good for this
├── NotFound             what was asked for does not exist
├── Conflict             the request does not fit the present state of the index or the server
│   ├── EncoderMismatch  an index and an encoder with different fingerprints
│   └── CorruptIndex     a version whose files do not match its manifest
├── KeyReused            a request's Idempotency-Key belongs to another request
├── ModelUnavailable     a model that cannot be loaded; the message says what to set
├── Overloaded           a bounded queue is full; try again after `retry_after_s`
│   └── RateLimited      the API key has asked as much as it may for now
├── Unavailable          nothing could answer; try again after `retry_after_s`
└── DeadlineExceeded     the work was not finished, or not started, because its deadline had passed

`code` is what clients see and never changes. `serve/web/errors.py` maps each class to one HTTP status; the CLI maps
`InvalidArgument`, `Unauthenticated`, `PermissionDenied`, `NotFound`, `Conflict`, `KeyReused` and `ModelUnavailable` to
exit code 2.
Messages name the place and the remedy.
"""

from typing import Any


class ShoalError(Exception):
    """Base of all errors that carry a message meant for the user."""

    code = "INTERNAL"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only attributes survive a trip between processes only when the state is carried explicitly.
        return type(self), (self.message,), {"param": self.param, "retry_after_s": self.retry_after_s}


class InvalidArgument(ShoalError):
    """The caller's input is wrong; `param` names the place."""

    code = "INVALID_ARGUMENT"


class Unauthenticated(ShoalError):
    """The server wants an API key, and this is none of its keys."""

    code = "UNAUTHENTICATED"


class PermissionDenied(ShoalError):
    """The API key is not good for this."""

    code = "PERMISSION_DENIED"


class NotFound(ShoalError):
    """What was asked for does not exist."""

    code = "NOT_FOUND"


class Conflict(ShoalError):
    """The request does not fit the present state of the index or the server."""

    code = "CONFLICT"


class EncoderMismatch(Conflict):
    """An index was built with one encoder and is asked for with another."""

    code = "ENCODER_MISMATCH"


class CorruptIndex(Conflict):
    """A version's files do not match its manifest."""

    code = "CORRUPT_INDEX"


class KeyReused(ShoalError):
    """The Idempotency-Key of a request belongs to another request."""

    code = "KEY_REUSED"


class ModelUnavailable(ShoalError):
    """A model cannot be loaded; the message says what to set."""

    code = "MODEL_UNAVAILABLE"


class Overloaded(ShoalError):
    """A bounded queue is full; try again after `retry_after_s`."""

    code = "OVERLOADED"


class RateLimited(Overloaded):
    """The API key has asked as much as it may for now; try again after `retry_after_s`."""

    code = "RATE_LIMITED"


class Unavailable(ShoalError):
    """Nothing could answer; try again after `retry_after_s`."""

    code = "UNAVAILABLE"


class DeadlineExceeded(ShoalError):
    """The deadline had passed before the work was finished or started."""

    code = "DEADLINE_EXCEEDED"
