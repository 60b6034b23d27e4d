"""`shoal index`: the versions of an index root."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli import tables
from shoal.cli.errors import FAILURE, guard
from shoal.cli.installation import require_engine
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import console, print_json, print_lines
from shoal.cli.server import connect
from shoal.client.answers import IndexDescription, IndexSummary
from shoal.errors import CorruptIndex, InvalidArgument, NotFound
from shoal.settings import CreateSettings
from shoal.system.terminal import format_bytes, printable

if TYPE_CHECKING:
    from shoal.index_root.manifest import Manifest
    from shoal.index_root.storage import Storage
    from shoal.index_root.versions import Current, Refusal
    from shoal.indexing.losses import BuildReport

# Whatever reads an index root is imported where it is used: what asks a server works with the client alone.

SWITCH_S = 660.0
"""How long a server may take to switch versions: it gives up preparing one after ten minutes (`serve.versions`)."""

NO_TYPE = "without a type, which no filter takes"
"""What is said of metadata fields whose values have no type in common."""

_VALUES = 5
"""Kinds of metadata values without a place in the index that are shown at most."""

app = typer.Typer(no_args_is_help=True, help="Look at the versions of an index, and choose the active one.")

_ROOT = typer.Option(metavar="ROOT", envvar="SHOAL_INDEX", help="Index root: a local path or a URI.")
"""The option that names an index root."""
Root = Annotated[str, _ROOT]
OptionalRoot = Annotated[str | None, _ROOT]
Server = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Ask this server to do it, instead of writing to the root.")
]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Name of a version, as `shoal index list` shows it.")]
OptionalVersion = Annotated[str | None, typer.Argument(metavar="[VERSION]", help="Default: the current version.")]

OptionalVersionToSign = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="Default: every version, and which of them is current.")
]


@settings_command(app, CreateSettings)
def create(settings: CreateSettings, as_json: AsJson = False) -> None:
    """Create an index without passages, which can be served and built over at once.

    A build over it keeps its encoder and the options given here, unless the build names others.
    """
    require_engine()
    from shoal.encoders import is_weightless
    from shoal.indexing.empty import create_index
    from shoal.inference.model_cache import require_model_cache

    if settings.dimension is None and not is_weightless(settings.encoder):
        require_model_cache("encoder", settings.encoder, settings)
    manifest = create_index(settings)
    if as_json:
        created = {"index": settings.index, "version": manifest.version, "shards": len(manifest.shards)}
        print_json({**created, "encoder": manifest.encoder.model, "dim": manifest.dim, "fields": manifest.fields})
    else:
        print_lines(
            f"created {settings.index}: version {manifest.version} without passages, {manifest.encoder.model}, "
            f"{manifest.dim} dimensions"
        )


@app.command("list")
def list_(
    index: OptionalRoot = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="List the indexes of this server instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of an index root, newest first, or the indexes of a server."""
    with guard(as_json):
        if url is not None:
            with connect(url) as client:
                _say_indexes(client.indexes(), as_json)
            return
        from shoal.index_root import versions

        storage = _storage(index)
        current = versions.read_current(storage)
        refusals = versions.read_refusals(storage)
        rows = [
            _row(storage, version, current, refusals.get(version))
            for version in reversed(versions.list_versions(storage))
        ]
        if as_json:
            print_json({"index": storage.uri, "versions": rows})
        elif rows:
            terminal = console()
            terminal.print(tables.versions(rows, terminal.width))
        else:
            print_lines(f"{storage.place()} holds no published version")


@app.command()
def show(index: Root, version: OptionalVersion = None, as_json: AsJson = False) -> None:
    """Show how a version was built and what it holds."""
    with guard(as_json):
        from shoal.index_root import versions
        from shoal.indexing.losses import read_report

        storage = _storage(index)
        current = versions.read_current(storage)
        manifest = versions.read_manifest(storage, version or _current(storage, current))
        state = _state(manifest.version, current)
        report = read_report(storage, manifest)
        if as_json:
            described = {"manifest": manifest.model_dump(mode="json"), "report": report.model_dump(mode="json")}
            print_json({"state": state, **described})
        else:
            console().print(tables.facts(_facts(manifest, state, report)))


@app.command()
def activate(version: Version, index: OptionalRoot = None, url: Server = None, as_json: AsJson = False) -> None:
    """Make a version the current one, after checking every file of it."""
    with guard(as_json):
        if url is not None:
            with connect(url, SWITCH_S) as client:
                _say_served(client.activate(version), as_json)
        else:
            from shoal.index_root import versions

            _say_current(versions.activate(_storage(index), version), as_json)


@app.command()
def rollback(index: OptionalRoot = None, url: Server = None, as_json: AsJson = False) -> None:
    """Make the version that was current before the current one again."""
    with guard(as_json):
        if url is not None:
            with connect(url, SWITCH_S) as client:
                _say_served(client.rollback(), as_json)
        else:
            from shoal.index_root import versions

            _say_current(versions.rollback(_storage(index)), as_json)


@app.command()
def verify(index: Root, version: OptionalVersion = None, as_json: AsJson = False) -> None:
    """Compare every file of a version with its manifest. Exit code 1 if anything differs."""
    with guard(as_json):
        from shoal.index_root import versions

        storage = _storage(index)
        name = version or _current(storage, versions.read_current(storage))
        problems = versions.verify(storage, name)
        if as_json:
            print_json({"version": name, "whole": not problems, "problems": problems})
        elif problems:
            count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            print_lines(f"version {name} is corrupt, {count}:", *problems)
        else:
            print_lines(f"version {name} is whole")
        if problems:
            raise typer.Exit(FAILURE)


@app.command()
def sign(index: Root, version: OptionalVersionToSign = None, as_json: AsJson = False) -> None:
    """Sign versions that were published without a key, after checking every file of them, and what was written since.

    The key is that of SHOAL_SIGNING_KEY or SHOAL_SIGNING_KEY_FILE. Sign only what nobody else can have written.
    """
    with guard(as_json):
        from shoal.index_root import versions
        from shoal.index_root.log_signing import sign_log

        signed = versions.sign(_storage(index), version)
        entries = sign_log(_storage(index)) if version is None else 0
        if as_json:
            print_json({"signed": signed} | ({"entries": entries} if entries else {}))
        else:
            print_lines(f"signed {', '.join(signed) or 'nothing'}{f', {entries} entries of the log' * bool(entries)}")


@app.command()
def prune(
    index: Root,
    keep: Annotated[
        int, typer.Option(metavar="INT", help="Newest versions that stay, beside current and previous.")
    ] = 2,
    idle_days: Annotated[
        float,
        typer.Option(metavar="NUMBER", min=0, help="Days without progress after which a build counts as dead."),
    ] = 7.0,
    as_json: AsJson = False,
) -> None:
    """Remove old versions, and what dead builds left. The current and the previous version always stay."""
    with guard(as_json):
        from shoal.index_root import versions
        from shoal.index_root.log_pruning import prune_log

        storage = _storage(index)
        removed = versions.prune(storage, keep, 86_400 * idle_days)
        prune_log(storage)
        if as_json:
            print_json({"removed": removed, "kept": versions.list_versions(storage)})
        else:
            print_lines(f"removed {', '.join(removed) or 'nothing'}")


def _say_indexes(indexes: list[IndexSummary], as_json: bool) -> None:
    if as_json:
        print_json({"indexes": [each.model_dump(mode="json", exclude_unset=True) for each in indexes]})
        return
    for each in indexes:
        size = "" if each.passages is None else f", {each.passages:,} passages"
        problem = "" if each.problem is None else f": {printable(each.problem)}"
        print_lines(f"{each.name}: {each.state}{size}{problem}")
    if not indexes:
        print_lines("the server has no index that may be asked with this key")


def _storage(index: str | None) -> "Storage":
    if index is None:
        raise InvalidArgument("--index ROOT (or SHOAL_INDEX) or --url URL is required", param="--index")
    from shoal.index_root.storage import Storage

    return Storage(index)


def _current(storage: "Storage", current: "Current | None") -> str:
    if current is None:
        raise NotFound(f"{storage.place()} has no current version; name one, or activate one")
    return current.version


def _state(version: str, current: "Current | None") -> str | None:
    if current is None:
        return None
    return {current.previous: "previous", current.version: "current"}.get(version)


def _row(
    storage: "Storage", version: str, current: "Current | None", refusal: "Refusal | None" = None
) -> dict[str, Any]:
    from shoal.index_root import versions

    state = _state(version, current)
    row: dict[str, Any] = {"version": version, "state": state, "problem": None, "refused": None}
    if refusal is not None and state is None:
        row |= {"state": "refused", "refused": refusal.reasons}
    try:
        manifest = versions.read_manifest(storage, version)
    except CorruptIndex as error:
        return {**row, "problem": error.message}
    return {
        **row,
        "created_at": manifest.created_at,
        "passages": manifest.counts.passages,
        "shards": len(manifest.shards),
        "bytes": sum(file.bytes for file in manifest.all_files()),
        "kind": manifest.index.kind,
        "recall_at_10": manifest.index.recall_at_10,
        "encoder": manifest.encoder.model,
    }


def _left_out(report: "BuildReport") -> list[tuple[str, str]]:
    from shoal.sources.listing import describe_left_out

    files = [("", describe_left_out(report.files_left_out))] if report.files_left_out else []
    values = [("", f"{count:,} x metadata {field}") for field, count in list(report.left_out.items())[:_VALUES]]
    return [(name, printable(text)) for name, text in [*files, *values, *(("note", note) for note in report.remarks)]]


def _copied(base: Mapping[str, Any], has_log: bool) -> str:
    new = "from the log or embedded" if has_log else "embedded"
    counts = f"{base['reused']:,} reused, {base['embedded']:,} {new}, {base['removed']:,} of its passages removed"
    return f"{base['version']}: {counts}"


def _facts(manifest: "Manifest", state: str | None, report: "BuildReport") -> list[tuple[str, str]]:
    counts, index, words, late = manifest.counts, manifest.index, manifest.lexical, manifest.late
    sizes = [shard.count for shard in manifest.shards]
    recall = "not measured" if index.recall_at_10 is None else f"{index.recall_at_10:.4f}"
    latency = "" if index.latency_ms is None else f", {index.latency_ms:.2f} ms a query in one shard"
    chosen = {name: value for name, value in manifest.build.items() if name != "base" and value not in (None, "")}
    settings = ", ".join(f"{name}={value}" for name, value in chosen.items())
    base = manifest.build.get("base")
    return [
        ("version", f"{manifest.version} ({state})" if state else manifest.version),
        ("created", manifest.created_at),
        ("passages", f"{counts.passages:,} of {counts.input:,} records"),
        *([] if base is None else [("copied from", _copied(base, manifest.log is not None))]),
        ("left out", f"{counts.duplicates:,} duplicates, {counts.rejected:,} rejected"),
        *_left_out(report),
        (
            "text",
            f"{format_bytes(manifest.statistics.text_bytes)}, "
            f"{manifest.statistics.mean_text_bytes:.0f} bytes a passage",
        ),
        ("shards", f"{len(sizes)} of {min(sizes, default=0):,} to {max(sizes, default=0):,} passages"),
        ("on disk", format_bytes(sum(file.bytes for file in manifest.all_files()))),
        ("encoder", str(manifest.encoder)),
        ("vectors", f"{manifest.dim} dimensions, {manifest.metric}"),
        ("index", f"{index.kind} {index.search}".strip()),
        ("words", "not indexed" if words is None else f"{words.language}, BM25 with k1 {words.k1:g} and b {words.b:g}"),
        ("tokens", "not stored" if late is None else f"stored, {late.dims} dimensions of {late.bits} bits"),
        ("recall@10", f"{recall}{latency}"),
        *(("" if place else "fields", field) for place, field in enumerate(_fields(manifest))),
        *(
            ("" if place else "curve", f"{point.recall:.4f} in {point.latency_ms:.2f} ms with {point.search}")
            for place, point in enumerate(index.curve)
        ),
        ("built with", settings),
        ("plan", manifest.plan),
    ]


def _fields(manifest: "Manifest") -> list[str]:
    """The metadata fields that filters know, a line for each type."""
    names: dict[str, list[str]] = {}
    for name, field_type in sorted(manifest.fields.items()):
        names.setdefault(NO_TYPE if field_type == "mixed" else field_type, []).append(name)
    return [f"{field_type}: {', '.join(names[field_type])}" for field_type in sorted(names)] or ["none"]


def _say_current(current: "Current", as_json: bool) -> None:
    if as_json:
        print_json(asdict(current))
        return
    print_lines(f"current version is {current.version}, previous is {current.previous or 'none'}")


def _say_served(description: IndexDescription, as_json: bool) -> None:
    if as_json:
        print_json(description.model_dump(mode="json", exclude_unset=True))
        return
    print_lines(f"serving version {description.version}, previous is {description.previous or 'none'}")
