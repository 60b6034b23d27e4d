"""API dialects. One dialect is one module or package here; it is served as soon as it exists.

A dialect defines `router(engine: Indexes, settings: ServeSettings) -> APIRouter`. Called, `engine` gives what answers
for the index that a request is for; a dialect may take it for a `Callable[[], Engine]`. Its routes turn requests into
what `serve.dialects.base.Engine` takes and answers into their own JSON, and raise the errors of `shoal.errors` for
everything they refuse: `serve/web/errors.py` maps these to a status and a body.

A dialect whose clients know another body also defines `error_body(error: HttpError) -> Any`. It then makes the body of
every error below the prefix of its router, whoever raises it: a wrong request, a path or a method that does not exist,
a missing key, a body that is too large. Status and headers stay the same. One whose paths have no prefix of their own
defines `choose_error_body(path: str, headers: Headers) -> ErrorBodyMaker | None` instead.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter

from serve.web.errors import ErrorBodyChooser, ErrorBodyMaker

if TYPE_CHECKING:
    from serve.web.indexes import Indexes
    from shoal.settings import ServeSettings

OWN = "native"
"""Shoal's own dialect, which the documentation begins with."""
NO_DIALECTS = frozenset({"base", "common"})
"""What here is no dialect."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The routes of a dialect, and what makes the bodies of its errors, or chooses it, if it has bodies of its own."""

    router: APIRouter
    error_body: ErrorBodyMaker | None
    choose_error_body: ErrorBodyChooser | None = None


def dialects(engine: "Indexes", settings: "ServeSettings") -> Iterator[Dialect]:
    """Build every dialect, Shoal's own before the others by name.

    Raises ValueError for an error body without a prefix.
    """
    for listed in sorted(pkgutil.iter_modules(__path__), key=lambda module: (module.name != OWN, module.name)):
        if listed.name in NO_DIALECTS:
            continue
        module = importlib.import_module(f"{__name__}.{listed.name}")
        dialect = Dialect(
            module.router(engine, settings),
            getattr(module, "error_body", None),
            getattr(module, "choose_error_body", None),
        )
        if dialect.error_body is not None and not dialect.router.prefix and dialect.choose_error_body is None:
            raise ValueError(f"{module.__name__} has an error body, so its router needs a prefix below which it holds")
        yield dialect
