"""`shoal plan`: what an index of a given size takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from shoal.capacity.constants import SHIPPED, Constants
from shoal.capacity.planner import Capacity, plan
from shoal.cli.application import application_folder, search_path
from shoal.cli.options import AsJson, settings_command
from shoal.cli.output import console, print_json
from shoal.cli.tables import facts
from shoal.errors import InvalidArgument
from shoal.settings import CapacitySettings
from shoal.system.folders import home_path
from shoal.system.terminal import format_bytes

MISSED = 3
"""Exit code when a goal cannot be met."""

NOT_MEASURED = (
    "Nothing was measured here: times are those of another machine ({machine}). Measure the kind that will serve, "
    "while it is idle: shoal plan --calibrate"
)
"""What is said of a plan with the constants that come with Shoal."""

app = typer.Typer()


@settings_command(app, CapacitySettings, "plan")
def capacity(
    settings: CapacitySettings,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine, a few minutes, and keep the constants.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Work out shards, copies, memory, disk, hours and latency of an index before there is one.

    Ends with exit code 3 if a goal cannot be met. docs/planning.md tells how it reckons.
    """
    file = home_path(settings.constants, "--constants")
    if calibrate:
        _calibrate(settings, file)
    # A file that somebody names has to be there.
    shipped = not file.exists() and settings.constants == CapacitySettings.model_fields["constants"].default
    constants = Constants.shipped() if shipped else Constants.read(file)
    file = SHIPPED if shipped else file
    if calibrate and settings.passages is None:
        if as_json:
            print_json({"constants": str(file), **constants.model_dump(mode="json")})
        else:
            console().print(facts(_measured(constants, str(file))))
        return
    outcome = plan(settings, constants)
    missed = _missed(settings, outcome)
    if as_json:
        machine, measured_at = constants.machine, constants.measured_at
        measured = {"file": str(file), "machine": machine, "measured_at": measured_at, "shipped": shipped}
        plain = outcome.model_dump(mode="json")
        print_json({**plain, "missed": missed, "constants": measured})
    else:
        console().print(_table(settings, outcome, constants, str(file), missed))
        if shipped:
            console().print(Text(NOT_MEASURED.format(machine=constants.machine), style="yellow"))
    if missed:
        raise typer.Exit(MISSED)


def _calibrate(settings: CapacitySettings, file: Path) -> None:
    from shoal.capacity.calibration import calibrate

    progress = Console(stderr=True, highlight=False)
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    measured = calibrate(
        settings,
        search_path(application_folder()),
        file.parent,
        lambda what: progress.print(f"measuring {what}", style="dim"),
    )
    with _writing(file):
        file.write_text(measured.model_dump_json(indent=1) + "\n")


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidArgument(
            f"cannot write {file} ({error.strerror}); correct --constants", param="constants"
        ) from None


def _missed(settings: CapacitySettings, outcome: Capacity) -> list[str]:
    missed = []
    if not outcome.recall_met:
        missed.append(
            f"recall {settings.recall:g} was not reached by {outcome.kind} where it was measured; the nearest is "
            f"{outcome.search.recall:.3f}: take a kind that compresses less"
        )
    if not outcome.latency_met:
        parts = outcome.p99.model_dump()
        largest = max(parts, key=lambda name: parts[name])
        missed.append(
            f"p99 of {settings.p99_ms:g} ms cannot be met; the nearest is {outcome.p99_ms:.0f} ms with "
            f"{outcome.shards:,} shards, most of it {largest} ({parts[largest]:.0f} ms)"
        )
    return missed


def _table(
    settings: CapacitySettings, outcome: Capacity, constants: Constants, file: str, missed: list[str]
) -> RenderableType:
    unit = "GPU" if constants.device == "cuda" else "core"
    p99 = outcome.p99
    parts = ", ".join(f"{name} {value:.1f}" for name, value in p99.model_dump().items() if value >= 0.05)
    hedged = round(p99.total) > round(outcome.p99_ms)
    search = f"{outcome.kind}, {settings.dim} dimensions"
    if outcome.search.refine:
        search += f", {outcome.search.share:.2%} of the lists, refine {outcome.search.refine}"
    rows = [
        ("index", search),
        ("shards", f"{outcome.shards:,} of {outcome.shard_passages:,} passages"),
        ("copies", f"{outcome.copies:,} of the index, {outcome.replicas:,} replicas of every shard"),
        (
            "nodes",
            f"{outcome.nodes:,} of {settings.node_memory_gib:g} GiB and {settings.node_cores} cores "
            f"({outcome.nodes_per_copy:,} a copy)",
        ),
        ("memory", f"{format_bytes(outcome.memory_bytes)} a copy with {settings.versions_in_memory} versions, "
                   f"{format_bytes(outcome.total_memory_bytes)} in all"),
        ("disk", f"{format_bytes(outcome.disk_bytes)} a copy, "
                 f"{format_bytes(outcome.build_disk_bytes)} in the root while building"),
        (
            "beside them",
            f"{outcome.encoder_replicas:,} query encoders, {outcome.ingress_replicas:,} ingress replicas"
            + (f", {outcome.reranker_replicas:,} rerankers" if settings.rerank_top_k else ""),
        ),
        ("embedding", f"{outcome.embed_hours:,.1f} {unit}-hours"),
        ("indexing", f"{outcome.index_core_hours:,.1f} core-hours"),
        ("latency", f"median {outcome.median_ms:.0f} ms, p99 {outcome.p99_ms:.0f} ms"),
        ("p99", f"{parts} ms" + (f"; {p99.total:.0f} ms without second attempts" if hedged else "")),
        ("build", f"--shards {outcome.shards} --index-kind {outcome.kind} --recall-target {settings.recall:g}"),
        ("serve", f"--retriever-replicas {outcome.replicas} --encoder-replicas {outcome.encoder_replicas} "
                  f"--ingress-replicas {outcome.ingress_replicas}"),
        ("constants", f"{file}: {constants.machine}, {constants.measured_at[:10]}"),
    ]  # fmt: skip
    notes = [Text(f"NOT MET: {line}", style="red") for line in missed]
    if constants.encoder_dim != settings.dim:
        notes.append(
            Text(
                f"The encoder that was measured, {constants.encoder}, has {constants.encoder_dim} dimensions, not "
                f"{settings.dim}: hours and query time are its own. Measure yours: shoal plan --calibrate --encoder …",
                style="yellow",
            )
        )
    return Group(facts(rows), *notes)


def _measured(constants: Constants, file: str) -> list[tuple[str, str]]:
    unit = "GPU" if constants.device == "cuda" else "core"
    tail = dict(constants.tail)
    return [
        ("machine", constants.machine),
        ("embedding", f"{constants.encode_bytes_per_s:,.0f} bytes/s with {constants.encoder}, one {unit}"),
        ("one query", f"{constants.query_ms:.1f} ms"),
        ("reranking", f"{constants.rerank_bytes_per_s:,.0f} bytes/s with {constants.reranker}, one {unit}"),
        *((kind, f"{1000 * cost.row_us:.2f} ns for each code of {constants.search_dim} dimensions")
          for kind, cost in constants.kinds.items()),
        ("exact", f"{constants.exact_us:.2f} us for each candidate"),
        ("words", f"{1000 * constants.lexical_us:.1f} ns for each passage of a shard"),
        ("indexing", f"{constants.index_us:.0f} us a passage"),
        ("disk", f"{constants.read_us:.0f} us a read"),
        ("answer", f"{constants.answer_ms:.1f} ms beside encoder and shards"),
        ("a shard", f"{constants.hop_ms:.1f} ms beside the search, {constants.call_ms:.2f} ms for each more"),
        ("call, p99", f"{tail[max(key for key in tail if key <= 0.99)]:.2f} times the median"),
        ("retriever", f"{format_bytes(constants.process_bytes)} beside the index"),
        ("kept in", file),
    ]  # fmt: skip
