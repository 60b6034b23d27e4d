"""What a dialect asks of the engine, in the words of its own fields, and how it writes what it gets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from fastapi import Response
from starlette.concurrency import run_in_threadpool

from shoal.errors import InvalidArgument
from shoal.settings import ServeSettings

FEW_VALUES = 20_000
"""Numbers of an answer that take less time to write than to hand over to a thread: a millisecond."""


def deadline_of(settings: ServeSettings) -> float:
    """When a request must be answered that cannot name its time, by `time.monotonic`."""
    return time.monotonic() + min(settings.timeout_ms, settings.max_timeout_ms) / 1000


@contextmanager
def fields_named(**names: str) -> Iterator[None]:
    """Let InvalidArgument name the fields of a dialect: `fields_named(inputs="input")`."""
    try:
        yield
    except InvalidArgument as error:
        param = error.param or ""
        field = param.partition("[")[0]
        if field not in names:
            raise
        named = names[field] + param.removeprefix(field)
        raise InvalidArgument(error.message.replace(param, named, 1), param=named) from error


def check_dimensions(asked: int | None, dim: int) -> None:
    """Raise InvalidArgument for vectors of more dimensions than those of the index have."""
    if asked is not None and asked > dim:
        raise InvalidArgument(
            f"dimensions should be at most {dim}, which the vectors of this index have, or left out", param="dimensions"
        )


def json_answer(body: Any, status: int = 200) -> Response:
    """Build the response of what JSON can hold; arrays of NumPy are lists."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


async def large_json_answer(body: Any, values: int) -> Response:
    """Build the response of a body that holds so many numbers, in a thread where they are many."""
    return json_answer(body) if values <= FEW_VALUES else await run_in_threadpool(json_answer, body)
