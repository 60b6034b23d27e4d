"""From an exception to a message and an exit code: the one place where a command ends because of an error."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from shoal.cli.installation import lacks_engine, require_engine
from shoal.cli.variables import warn_of_misspelt
from shoal.errors import (
    Conflict,
    InvalidArgument,
    KeyReused,
    ModelUnavailable,
    NotFound,
    PermissionDenied,
    ShoalError,
    Unauthenticated,
)
from shoal.system.terminal import say, without_controls

USER_FAULT = 2
"""Exit code of what the user can correct."""
FAILURE = 1
"""Exit code of whatever else went wrong."""
REFUSED = 3
"""A build whose version did not pass its gate, or that lost too much of its input."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, that of a shell."""
USER_FAULTS = (InvalidArgument, Unauthenticated, PermissionDenied, NotFound, Conflict, KeyReused, ModelUnavailable)
"""Errors whose remedy is in the hands of whoever typed the command: exit code 2."""


@contextlib.contextmanager
def guard(as_json: bool = False) -> Iterator[None]:
    """Turn what goes wrong inside into `error: message` on stderr and an exit code, never a stack trace.

    Also a decorator. Raises SystemExit: 2 where the user can set it right, as where a module is missing that an extra
    brings, 130 for Ctrl-C and SIGTERM, 1 for everything else. With `as_json`, stdout gets {"error": {"code", "message",
    "param"}} as well, so that a reader of --json always finds an object. SHOAL_TRACEBACK=1 shows the stack trace of an
    error that Shoal did not expect.
    """
    try:
        yield
    except ShoalError as error:
        _report(error.code, error.message, error.param, as_json)
        raise SystemExit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader, such as `head`, has gone. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILURE) from None
    except Exception as error:
        if (correctable := _correctable(error)) is not None:
            _report(correctable.code, correctable.message, correctable.param, as_json)
            raise SystemExit(USER_FAULT) from None
        if os.environ.get("SHOAL_TRACEBACK") == "1":
            raise
        # typer ends a command with exceptions of its own, which are its business.
        if type(error).__module__.partition(".")[0] in ("typer", "click"):
            raise
        message = f"{type(error).__name__}: {error} (SHOAL_TRACEBACK=1 shows where)"
        _report(ShoalError.code, message, None, as_json)
        raise SystemExit(FAILURE) from None


def run(app: Callable[..., Any], name: str | None = None) -> NoReturn:
    """Run a typer application as this process's program; it ends as `guard` says, errors of usage included.

    Those end inside typer, which knows how to print them but nothing of --json. Warns of misspelt variables.
    """
    warn_of_misspelt()
    try:
        with guard("--json" in sys.argv):
            app(prog_name=name)
        sys.exit()
    except SystemExit as end:
        usage: Any = end.__context__
        if "--json" in sys.argv and hasattr(usage, "format_message"):
            _print_json(InvalidArgument.code, usage.format_message(), None)
        raise


def exit_code(error: ShoalError) -> int:
    """2 where the user can set it right, else 1."""
    return USER_FAULT if isinstance(error, USER_FAULTS) else FAILURE


def _correctable(error: Exception) -> InvalidArgument | None:
    """What an error of Python's own says to the user, if it is one that the user can set right."""
    if isinstance(error, ModuleNotFoundError):
        return lacks_engine(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home directory"):
        return InvalidArgument(
            "a path begins with ~, which stands for the home folder, and this user has none; set HOME or give the "
            "whole path"
        )
    return None


def _report(code: str, message: str, param: str | None, as_json: bool) -> None:
    # Some of it may be what a server said, or stand in a file.
    say(f"error: {without_controls(message)}")
    if as_json:
        _print_json(code, message, param)


def _print_json(code: str, message: str, param: str | None) -> None:
    print(json.dumps({"error": {"code": code, "message": message, "param": param}}))  # noqa: T201


def check_program() -> None:
    """End a program that is started as `python -m PACKAGE.NAME` as `guard` does, if only the client is installed.

    For the packages of such programs to call when they are imported: the imports of the program itself would end in a
    stack trace. Does nothing when the package is imported by anything else.
    """
    if sys.argv[:1] == ["-m"]:  # while Python looks for the program
        with guard("--json" in sys.argv):
            require_engine()
