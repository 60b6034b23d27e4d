"""Rankings of many queries, and TREC's files of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import InvalidArgument

DEPTH = 100
"""Passages of a ranking."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rankings by query: passage ids, best first. `latency_ms` by query, empty for a run that was read from a file.

    degraded: queries whose answer was less than what was asked for.
    """

    name: str
    rankings: dict[str, list[str]]
    latency_ms: dict[str, float] = field(default_factory=dict)
    degraded: int = 0


def read_run(path: str) -> Run:
    """Read a TREC run file (query Q0 passage rank score name), ordered by its scores.

    Raises InvalidArgument that names file and line.
    """
    scored: dict[str, list[tuple[float, int, str]]] = {}
    place = Path(path).expanduser()
    try:
        for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                query, _, passage, rank, score, *_ = line.split()
                scored.setdefault(query, []).append((-float(score), int(rank), passage))
            except ValueError:
                raise InvalidArgument(
                    f"{place}:{number}: not a line of a TREC run, query Q0 passage rank score name", param="runs"
                ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{place} cannot be read: {error}", param="runs") from None
    return Run(place.stem, {query: [passage for *_, passage in sorted(lines)] for query, lines in scored.items()})


def write_run(run: Run, folder: str) -> Path:
    """Write a run as FOLDER/NAME.trec. Its scores are the reciprocal ranks, which keep the order in every tool.

    Raises InvalidArgument for ids with white space, which the format cannot hold.
    """
    place = Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{run.name}.trec"
    with path.open("w", encoding="utf-8") as file:
        for query, ranking in run.rankings.items():
            _check(path, [query, *ranking])
            file.writelines(
                f"{query} Q0 {passage} {rank} {1 / rank:.6g} {run.name}\n" for rank, passage in enumerate(ranking, 1)
            )
    return path


def extended(run: Run, stage_one: Run) -> Run:
    """Let what stage two did not order follow in the order of stage one, so that both are measured at one depth."""
    rankings = {}
    for query, ranking in run.rankings.items():
        known = set(ranking)
        rest = (passage for passage in stage_one.rankings[query] if passage not in known)
        rankings[query] = [*ranking, *rest][:DEPTH]
    return Run(run.name, rankings, run.latency_ms, run.degraded)


def joined(parts: Iterable[Run]) -> Run:
    """Join runs of one name over different queries."""
    first, *others = parts
    rankings, latency_ms, degraded = dict(first.rankings), dict(first.latency_ms), first.degraded
    for part in others:
        rankings |= part.rankings
        latency_ms |= part.latency_ms
        degraded += part.degraded
    return Run(first.name, rankings, latency_ms, degraded)


def _check(path: Path, ids: list[str]) -> None:
    for id_ in ids:
        if not id_ or id_.split() != [id_]:
            raise InvalidArgument(
                f"{path}: the id {id_!r} has white space, which a TREC run file cannot hold", param="save_runs"
            )
