"""From a settings model to command-line options, and back.

Every field of a model is one option: `index_kind` is --index-kind and the variable SHOAL_INDEX_KIND, its help is the
field's description, and pydantic alone checks its value. Lists are separated by commas; an empty string is an empty
list. A field marked with REPEATS takes what another option, given several times, has after its first value.
"""

import inspect
import os
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from shoal.cli.errors import guard
from shoal.cli.variables import variable
from shoal.errors import InvalidArgument
from shoal.settings import Settings
from shoal.settings.base import REPEATS

S = TypeVar("S", bound=Settings)
F = TypeVar("F", bound=Callable[..., Any])

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of text.")]
"""Annotation of the `as_json` parameter that every command has."""

EPILOG = "Every option can also be set by a variable: --index-kind by SHOAL_INDEX_KIND."
"""What stands below the options of every command."""


def settings_command(app: typer.Typer, model: type[S], name: str | None = None) -> Callable[[F], F]:
    """Register `def f(settings: model, ...)` as a command of `app` that has an option for each field of the model.

    Further parameters of the function are ordinary typer parameters. Errors end the command through `guard`, which is
    told of a parameter `as_json`. Returns the function itself.
    """

    def register(function: F) -> F:
        extra = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "settings"
        ]

        def command(**values: Any) -> None:
            given = {field: values.pop(field) for field in _own_options(model)}
            for field in _repeated(model):
                given[field] = given[field] or [value for value in [os.environ.get(variable(field))] if value] or None
            with guard(as_json=values.get("as_json", False)):
                function(settings=parse(model, given), **values)

        parameters = [*(_parameter(model, field) for field in _in_order(model)), *extra]
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, epilog=EPILOG)(command)
        return function

    return register


def parse(model: type[S], given: Mapping[str, str | bool | list[str] | None]) -> S:
    """Validate option values as they were typed; None stands for an option that was not given.

    Raises InvalidArgument that names the options at fault.
    """
    typed = {field: value for field, value in given.items() if value is not None}
    for field, further in _repeated(model).items():
        if isinstance(values := typed.get(field), list):
            typed |= {field: values[0]} | ({further: values[1:]} if values[1:] else {})
    for field, value in typed.items():
        if isinstance(value, str) and _kind(model.model_fields[field]) is list:
            typed[field] = [item.strip() for item in value.split(",")] if value.strip() else []
    try:
        return model.model_validate(typed)
    except ValidationError as error:
        details = error.errors()
        problems = [_problem(detail["type"], detail["loc"], detail["msg"], detail["input"]) for detail in details]
        raise InvalidArgument("; ".join(problems), param=option(str(details[0]["loc"][0]))) from None


def _repeated(model: type[Settings]) -> dict[str, str]:
    """Fields whose options may be given several times, and the fields that take what comes after the first."""
    extras = {field: info.json_schema_extra for field, info in model.model_fields.items()}
    return {
        str(extra[REPEATS]): field for field, extra in extras.items() if isinstance(extra, dict) and REPEATS in extra
    }


def _own_options(model: type[Settings]) -> list[str]:
    """The fields that have an option."""
    further = set(_repeated(model).values())
    return [field for field in model.model_fields if field not in further]


def to_arguments(settings: Settings) -> list[str]:
    """Return the command-line arguments that give these settings again; only of fields that were set explicitly."""
    arguments = []
    owners = {further: field for field, further in _repeated(type(settings)).items()}
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        if field not in settings.model_fields_set or value is None:
            continue
        if isinstance(value, bool):
            arguments.append(option(field) if value else f"--no-{option(field)[2:]}")
        elif field in owners:
            arguments += [f"{option(owners[field])}={item}" for item in value]
        else:
            text = ",".join(value) if isinstance(value, list) else str(value)
            arguments.append(f"{option(field)}={text}")
    return arguments


def option(field: str) -> str:
    """Name of the option of a field: `index_kind` is --index-kind."""
    return f"--{field.replace('_', '-')}"


def _parameter(model: type[Settings], field: str) -> inspect.Parameter:
    info = model.model_fields[field]
    kind = _kind(info)
    declaration = f"{option(field)}/--no-{option(field)[2:]}" if kind is bool else option(field)
    settings = typer.Option(
        declaration,
        envvar=variable(field),
        help=_help(info),
        metavar=None if kind is bool else {int: "INT", float: "NUMBER", list: "A,B,..."}.get(kind, "TEXT"),
        show_default=False,
        show_envvar=False,
        rich_help_panel=_panel(model, field),
    )
    # None means "not given"; values stay as typed, because pydantic is the one to judge them.
    annotation: Any = Annotated[bool | None if kind is bool else str | None, settings]
    if field in _repeated(model):
        settings.envvar = None  # typer would cut what it holds at spaces
        annotation = Annotated[list[str] | None, settings]
    return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(info: FieldInfo) -> Any:
    """The type that a field's values have, without None, and without the item type of a list."""
    annotation: Any = info.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(member for member in get_args(annotation) if member is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) or annotation


def _help(info: FieldInfo) -> str:
    notes = []
    if _kind(info) is Literal:
        notes.append(", ".join(get_args(info.annotation)))
    bounds = [
        f"{word} {getattr(constraint, attribute):,}"
        for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))
        for constraint in info.metadata
        if getattr(constraint, attribute, None) is not None
    ]
    if bounds:
        notes.append(" ".join(bounds))
    if not info.is_required() and info.default not in (None, ""):
        default = {True: "yes", False: "no"}[info.default] if isinstance(info.default, bool) else info.default
        notes.append(f"default {default}")
    # The description is plain text, and typer reads square brackets as markup.
    text = (info.description or "").replace("[", r"\[")
    return f"{text} [dim]({'; '.join(notes)})[/dim]" if notes else text


def _owner(model: type[Settings], field: str) -> type:
    """The class that declares a field."""
    return next(cls for cls in model.__mro__ if field in inspect.get_annotations(cls))


def _panel(model: type[Settings], field: str) -> str:
    if model.model_fields[field].is_required():
        return "Required"
    return _heading(_owner(model, field))


def _heading(owner: type) -> str:
    """Heading above the options that a class declares: `EncoderSettings` is "Encoder", unless it names another one."""
    return vars(owner).get("help_panel") or owner.__name__.removesuffix("Settings")


def _in_order(model: type[Settings]) -> list[str]:
    """Fields as --help shows them: the required ones, then those of the model itself, then those of its bases."""
    headings = [_heading(owner) for owner in model.__mro__]
    return sorted(
        _own_options(model),
        key=lambda field: (
            not model.model_fields[field].is_required(),
            headings.index(_heading(_owner(model, field))),
        ),
    )


def _problem(kind: str, place: tuple[int | str, ...], message: str, value: Any) -> str:
    field = str(place[0])
    if kind == "missing":
        return f"{option(field)} (or {variable(field)}) is required"
    return f"{option(field)}: {message[0].lower()}{message[1:]} (got {value!r})"
