"""Writes docs/configuration.md and docs/http.md from the code: `python docs/reference.py`.

A test keeps both pages equal to what this gives. Nothing in them depends on the machine.
"""

import importlib
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

FOLDER = Path(__file__).resolve().parent
JSON = "application/json"
GENERATED = "<!-- Written by `python docs/reference.py`. -->\n"

CONFIGURATION = f"""# Configuration: every option
{GENERATED}
Each option of a command that has settings is also a variable: `--index-kind` is `SHOAL_INDEX_KIND`. What is typed
wins over the variable. A switch such as `--lexical` is turned off by `--no-lexical`, a list is separated by commas,
and an empty string is an empty list. Options of `shoal serve` are also the names in the `args` of a Serve config
(`max_requests`), but for `--host`, `--port`, `--metrics-port` and `--proxy`. An option without a default is left to
Shoal, as its text tells.
"""

HTTP = f"""# HTTP: every route
{GENERATED}
Bodies are JSON, with the header `Content-Type: application/json`. A server that has keys wants one with every
request but those for its health, its documentation and the files of the page: `Authorization: Bearer KEY`, or the
header `api-key` or `x-api-key`. `/v1/index/versions`, `/v1/index/activate` and `/v1/index/rollback` want one of the
scope `admin`. Every response has `x-request-id`: yours, if you send one. Every route of GET has HEAD too.
A body may be packed with gzip
(`Content-Encoding: gzip`); answers from `compress_bytes` on are, for clients that send `Accept-Encoding: gzip`.

What is at `/v1/...` is for the default index; for any other it is at `/v1/indexes/NAME/...`, with the same bodies and
answers, and Pinecone's data plane is at `/i/NAME/...` ([several indexes](catalog.md)).

A server describes itself at `/openapi.json` and, for people, at `/docs`; [the page](page.md) at `/`
is for asking it. Defaults and bounds below are those of a server without options. Types for TypeScript:
`npx openapi-typescript http://127.0.0.1:8000/openapi.json --default-non-nullable=false --output shoal.d.ts`.
"""

COMMANDS: dict[str, tuple[str, str | dict[str, str] | None]] = {
    "shoal build": ("shoal.cli.build", "BuildSettings"),
    "shoal serve": ("shoal.cli.serve", "RunSettings"),
    "shoal search": ("shoal.cli.search", None),
    "shoal compare": ("shoal.cli.compare", None),
    "shoal eval": ("shoal.cli.eval", "RecommendSettings"),
    "shoal compact": ("shoal.cli.compact", "CompactSettings"),
    "shoal index": ("shoal.cli.index", {"create": "CreateSettings"}),
    "shoal keys": ("shoal.cli.keys", None),
    "shoal mcp": ("shoal.cli.mcp", None),
    "shoal plan": ("shoal.cli.plan", "CapacitySettings"),
    "python -m jobs.train_reranker": ("jobs.train_reranker", "TrainSettings"),
    "python -m jobs.train_blend": ("jobs.train_blend", "BlendTrainingSettings"),
}
"""Commands by the module of their typer application and the name of their settings, or those of each command below
them; None for those without."""

NO_OPTIONS = ("help", "install_completion", "show_completion")

Row = tuple[str, str, str, str]
"""Name, value, default and description of an option or a field."""


def pages() -> dict[str, str]:
    """Return the text of each generated page by its name in this folder."""
    return {"configuration.md": configuration(), "http.md": http()}


def configuration() -> str:
    """Write the page of options, from the settings models and the commands."""
    import typer

    parts = [CONFIGURATION]
    for title, (module, models) in COMMANDS.items():
        found = typer.main.get_command(importlib.import_module(module).app)
        for name, command in getattr(found, "commands", {"": found}).items():
            heading = f"{title} {name}".strip()
            model = models.get(name) if isinstance(models, dict) else models
            parts.append(
                f"\n## `{heading}`\n\n{_sentence(command.help)}\n\n{_table('option', _options(command, model))}"
            )
    parts.append(
        "\n`python -m jobs.build_index`, `python -m jobs.evaluate` and `python -m serve.run` take the options of\n"
        "`shoal build`, `shoal eval` and `shoal serve`; `jobs.evaluate` also takes `--workers`, the number of tasks\n"
        "that ask.\n"
    )
    return "".join(parts)


def _options(command: Any, model_name: str | None) -> list[Row]:
    """The options of a command: required ones first, then by name."""
    from shoal import settings

    fields = getattr(settings, model_name).model_fields if model_name else {}
    rows: list[tuple[bool, Row]] = []
    for parameter in command.params:
        if parameter.name in NO_OPTIONS or not parameter.opts[0].startswith("--"):
            continue
        name = f"`{parameter.opts[0]}`"
        if parameter.name in fields:
            info = fields[parameter.name]
            default = "required" if info.is_required() else _default(info.default)
            rows.append((info.is_required(), (name, _value(info), default, info.description or "")))
        else:
            default = "required" if parameter.required else _default(parameter.default)
            value = "switch" if parameter.is_flag else str(parameter.metavar or parameter.type.name).lower()
            rows.append((parameter.required, (name, value, default, parameter.help or "")))
    return [row for _, row in sorted(rows, key=lambda item: (not item[0], item[1][0].strip("`")))]


def _value(info: Any) -> str:
    """What values an option takes: its choices, or its type and bounds."""
    annotation = info.annotation
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(member for member in get_args(annotation) if member is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    kind = get_origin(annotation) or annotation
    words = {bool: "switch", int: "integer", float: "number", list: "list"}.get(kind, "text")
    bounds = _bounds({key: getattr(limit, key) for limit in info.metadata for key in WORDS if hasattr(limit, key)})
    return f"{words} {bounds}".strip()


WORDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}


def _bounds(limits: Mapping[str, Any]) -> str:
    found = ((word, limits.get(key)) for key, word in WORDS.items())
    return " ".join(f"{word} {limit:,.15g}" for word, limit in found if limit is not None)


def _default(value: Any) -> str:
    """A default as it is typed on a command line."""
    if value is None or value in ("", []):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value:.15g}`" if isinstance(value, float) else f"`{value}`"


def _json(value: Any) -> str:
    """A value as it is in JSON."""
    return "" if value is None else f"`{json.dumps(value)}`"


def http() -> str:
    """Write the page of routes, from the OpenAPI document of the application."""
    from serve.web.api import create_api
    from serve.web.index_paths import INDEXES
    from shoal.settings import ServeSettings

    def no_engine() -> Any:
        raise AssertionError("nothing is asked")

    document = create_api(no_engine, ServeSettings(index="ROOT")).openapi()
    schemas = Schemas(document["components"]["schemas"])
    parts = [HTTP]
    described: dict[str | None, str] = {}
    for path, operations in document["paths"].items():
        if path.startswith(f"{INDEXES}/{{index}}/"):  # said once, above
            continue
        for method, operation in operations.items():
            parts.append(f"\n## {method.upper()} {path}\n\n{_sentence(operation.get('description'))}\n")
            parts.append(_route(f"{method.upper()} {path}", operation, schemas, described))
    parts.append(_errors(schemas))
    return "".join(parts)


def _route(title: str, operation: Mapping[str, Any], schemas: "Schemas", described: dict[str | None, str]) -> str:
    """What a route takes, answers and refuses. described: answers by the route that they are described at; added to."""
    parts = []
    for place in ("path", "query"):
        if parameters := [each for each in operation.get("parameters", ()) if each["in"] == place]:
            rows = schemas.parameters(parameters)
            parts.append(f"\nIn the {place} of the URL:\n\n{_table('parameter', rows)}")
    if body := operation.get("requestBody"):
        parts += _body(title, _schema(body), schemas, described) if JSON in body["content"] else _lines(body)
    done = next(status for status in operation["responses"] if status.startswith("2"))
    for place, answer in enumerate(schemas.alternatives(_schema(operation["responses"][done]))):
        name = schemas.name(answer)
        if name in described:
            parts.append(f"\nThe answer is that of {described[name]}.\n")
            continue
        rows = schemas.fields(answer, known=described)
        opening = "The answer" if not place else "Or"
        shown = f"{opening}:\n\n{_table('field', rows, defaults=False)}" if rows else f"{opening} is an empty object.\n"
        parts.append(f"\n{shown}")
        if name:
            described[name] = title
    refusals = [
        f"| {status} | {response['description']} |\n"
        for status, response in operation["responses"].items()
        if status not in (done, "default", "422")
    ]
    if refusals:
        parts.append("\n| status | when |\n| --- | --- |\n" + "".join(refusals))
    return "".join(parts)


def _body(title: str, schema: Mapping[str, Any], schemas: "Schemas", described: dict[str | None, str]) -> Iterator[str]:
    """The bodies that a route takes, each of which is described once."""
    for place, body in enumerate(schemas.alternatives(schema)):
        name = schemas.name(body)
        if name in described:
            yield f"\n{'The body' if not place else 'Or it'} is that of {described[name]}.\n"
            continue
        rows = schemas.fields(body, required=True)
        opening = "The body" if not place else "Or"
        yield f"\n{opening}:\n\n{_table('field', rows)}" if rows else "\nThe body is an empty object.\n"
        if name and rows:
            described[name] = title


def _lines(body: Mapping[str, Any]) -> Iterator[str]:
    """A body that is no JSON by itself."""
    for media_type, content in body["content"].items():
        yield f"\nThe body, as `{media_type}`: {content['schema']['description']}\n"


def _schema(content: Mapping[str, Any]) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = content["content"][JSON]["schema"]
    return schema


class Schemas:
    """The schemas of an OpenAPI document, by name."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas

    def name(self, schema: Mapping[str, Any]) -> str | None:
        """Name of the schema that this one refers to; None if it is written out."""
        return schema["$ref"].rpartition("/")[2] if "$ref" in schema else None

    def alternatives(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The schemas of which one holds, without null."""
        members = schema.get("anyOf") or schema.get("oneOf") or [schema]
        return [member for member in members if member.get("type") != "null"]

    def named(self, name: str) -> Mapping[str, Any]:
        """Return a schema of the document."""
        schema: Mapping[str, Any] = self._schemas[name]
        return schema

    def fields(
        self, schema: Mapping[str, Any], prefix: str = "", known: Collection[str | None] = (), required: bool = False
    ) -> list[Row]:
        """Rows of an object and of the objects in it, as `results[].id`.

        known: names of schemas that have been described and are not again. required: whether a field that has to be
        there is marked, which is of interest in requests.
        """
        whole = self._resolve(schema)
        rows: list[Row] = []
        if whole.get("type") == "array" and not prefix:
            inner, marks = self._content(whole)
            text = self._resolve(inner).get("description") or whole.get("description")
            rows.append((f"`{marks}`", self._type(whole).removeprefix("list of "), "", text or ""))
            return rows + self.fields(inner, f"{marks}.", known, required)
        for name, field in whole.get("properties", {}).items():
            default = "required" if required and name in whole.get("required", ()) else _json(field.get("default"))
            inner, marks = self._content(field)
            text = field.get("description") or (
                "" if "properties" in field else self._resolve(inner).get("description")
            )
            if self.name(inner) in known:
                text = "As above, one for each query."
            rows.append((f"`{prefix}{name}`", self._type(field), default, text or ""))
            if self.name(inner) not in known:
                rows += self.fields(inner, f"{prefix}{name}{marks}.", known, required)
        return rows

    def parameters(self, parameters: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Rows of the parameters of a route."""
        properties = {parameter["name"]: parameter["schema"] for parameter in parameters}
        required = [parameter["name"] for parameter in parameters if parameter.get("required")]
        return self.fields({"properties": properties, "required": required}, required=True)

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        name = self.name(schema)
        return self.named(name) if name else schema

    def _content(self, field: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """What a field holds in the end, and `[]` for each list around it."""
        [first, *_] = self.alternatives(field)
        if first.get("type") == "array" and "items" in first:
            inner, marks = self._content(first["items"])
            return inner, f"[]{marks}"
        return first, ""

    def _type(self, field: Mapping[str, Any]) -> str:
        schema = self._resolve(field)
        members = schema.get("anyOf") or schema.get("oneOf")
        if members:
            return " or ".join(dict.fromkeys(self._type(member).removeprefix("or ") for member in members))
        if "enum" in schema or "const" in schema:
            return ", ".join(_json(value) for value in schema.get("enum", [schema.get("const")]))
        types = schema.get("type", "object")
        types = types if isinstance(types, list) else [types]
        words = [
            f"list of {self._type(schema['items'])}" if kind == "array" and "items" in schema else kind
            for kind in types
            if kind != "null"
        ]
        limits = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        bounds = _bounds({key: schema.get(name) for key, name in limits.items()})
        return " ".join(filter(None, [" or ".join(words), bounds, "or null" if "null" in types else ""]))


def _errors(schemas: Schemas) -> str:
    from serve.web.errors import CODES, STATUS, responses
    from shoal.errors import ShoalError

    codes = {
        code: (status, responses(status)[status]["description"]) for status, code in CODES.items() if status != 405
    }
    codes[CODES[405]] = (405, "The path has other methods than this.")
    for error in _with_descendants(ShoalError):
        status = next(STATUS[base] for base in error.__mro__ if base in STATUS)
        codes[error.code] = (status, _sentence(error.__doc__))
    codes[ShoalError.code] = (
        STATUS[ShoalError],
        "The server failed; its log has the reason under the request's x-request-id.",
    )
    rows = sorted((status, code, text) for code, (status, text) in codes.items())
    fields = _table("field", schemas.fields(schemas.named("ErrorBody")), defaults=False)
    table = "".join(f"| `{code}` | {status} | {text} |\n" for status, code, text in rows)
    return (
        f"\n## Errors\n\nEvery error has the same body:\n\n{fields}\n"
        f"With 429 and 503 the header `Retry-After` says how many seconds to wait.\n\n"
        f"| code | status | meaning |\n| --- | --- | --- |\n{table}"
    )


def _with_descendants(kind: Any) -> Iterator[Any]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield from _with_descendants(child)


def _table(first: str, rows: list[Row], defaults: bool = True) -> str:
    """A Markdown table of rows; without `defaults` their third column is left out."""
    head = [first, "value", *(["default"] if defaults else []), "what it is"]
    lines = [head, ["---"] * len(head)]
    for name, value, default, text in rows:
        cells = [name, value, *([default] if defaults else []), _sentence(text)]
        lines.append([cell.replace("|", "\\|") for cell in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sentence(text: str | None) -> str:
    """A text on one line."""
    return re.sub(r"\s+", " ", text or "").strip()


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    for page, content in pages().items():
        (FOLDER / page).write_text(content, "utf-8")
