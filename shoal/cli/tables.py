"""Answers and index versions as tables for people. Everything from outside is text, never markup or control codes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.client.answers import SearchResponse, SearchResult
from shoal.extraction.places import PAGE_FIELD
from shoal.system.terminal import format_bytes, printable, without_controls

"""Columns that the ids of passages get."""
ROOM_FOR_IDS = 80
"""Terminals narrower than this show no passage ids."""
VERSION_COLUMNS = (
    (100, ("passages", "shards", "size", "recall", "kind", "encoder")),
    (76, ("passages", "shards", "size", "recall")),
    (0, ("passages", "size")),
)
"""Least width, and what the table of versions shows then."""


def answer(response: SearchResponse, width: int, *, full: bool = False) -> RenderableType:
    """Results in their final order with the score that orders them, then what the answer rests on.

    Where stage two has reordered them, the rank and the score of stage one stand beside it, and the reranker's own
    score where the final one is another. full: whole texts, instead of their beginning on one line.
    """
    if not response.results:
        return Group(Text("no results", style="bold"), *_footer(response))
    ids = width >= ROOM_FOR_IDS
    blended = response.reranked and any(result.score != result.rerank_score for result in response.results)
    table = _table(leading=1 if full else 0)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right", style="bold")
    grouped = any("group" in result.model_fields_set and not _begins(result) for result in response.results)
    columns: list[tuple[bool, str, dict[str, Any]]] = [
        (blended, "rerank", {"justify": "right"}),
        (response.reranked, "was", {"justify": "right"}),
        (response.reranked, "stage one", {"justify": "right"}),
        (grouped, "group", {"overflow": "fold", "max_width": width // 4}),
        (ids, "id", {"style": "dim", "overflow": "fold", "max_width": width // 3}),
    ]
    for wanted, name, options in columns:
        if wanted:
            table.add_column(name, **options)
    table.add_column("passage", no_wrap=not full, overflow="fold" if full else "ellipsis", ratio=1)
    for rank, result in enumerate(response.results, 1):
        row = [Text(str(rank)), Text(_score(result.score))]
        if blended:
            row.append(Text(_score(result.rerank_score)))
        if response.reranked:
            row += [_moved(rank, result.retrieval_rank), Text(_score(result.retrieval_score))]
        if grouped:
            row.append(Text("-" if result.group is None else _plain(result.group)))
        if ids:
            row.append(_named(result))
        table.add_row(*row, _passage(result, full=full))
    return Group(table, *_footer(response))


def comparison(response: SearchResponse, rows: int, width: int) -> RenderableType:
    """The first `rows` passages in stage-one order beside the first `rows` in reranked order.

    The response must hold every candidate, so that a passage can be followed from one side to the other.
    """
    original = sorted(response.results, key=lambda result: result.retrieval_rank)
    final_rank = {result.id: rank for rank, result in enumerate(response.results, 1)}
    scores = width >= ROOM_FOR_IDS
    table = _table()
    table.add_column("#", justify="right")
    for name, link in (("stage one", "to"), ("reranked", "was")):
        if name == "reranked":
            table.add_column(link, justify="right")
        if scores:
            table.add_column("score", justify="right", style="bold")
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1)
        if name == "stage one":
            table.add_column(link, justify="right")
    for rank, (before, after) in enumerate(zip(original[:rows], response.results[:rows], strict=True), 1):
        goes, came = final_rank[before.id], after.retrieval_rank
        left = [*([Text(_score(before.retrieval_score))] if scores else []), _passage(before), _moved(goes, rank, goes)]
        right = [_moved(rank, came), *([Text(_score(after.score))] if scores else []), _passage(after)]
        table.add_row(Text(str(rank)), *left, *right)
    return Group(table, _moves(response, rows), *_footer(response))


def versions(rows: Sequence[dict[str, Any]], width: int) -> RenderableType:
    """Versions of an index root in the order given, with as many facts as the width allows, then what is wrong."""
    marks = {
        "current": Text("● current", style="green"),
        "previous": Text("○ previous", style="dim"),
        "refused": Text("✗ refused", style="yellow"),
    }
    columns = next(columns for least, columns in VERSION_COLUMNS if width >= least)
    table = _table()
    table.add_column("", no_wrap=True)
    table.add_column("version", no_wrap=True, style="bold")
    for name in columns:
        words = name in ("kind", "encoder")
        table.add_column(name, no_wrap=True, justify="left" if words else "right", ratio=1 if words else None)
    for row in rows:
        start = [marks.get(row["state"], Text()), Text(row["version"])]
        if row["problem"]:
            table.add_row(*start, Text("unreadable", style="red"))
            continue
        facts = {
            "passages": f"{row['passages']:,}",
            "shards": str(row["shards"]),
            "size": format_bytes(row["bytes"]),
            "recall": "-" if row["recall_at_10"] is None else f"{row['recall_at_10']:.3f}",
            "kind": printable(row["kind"]),
            "encoder": printable(row["encoder"]),
        }
        table.add_row(*start, *[Text(facts[name]) for name in columns])
    problems = [Text(printable(row["problem"]), style="red") for row in rows if row["problem"]]
    refusals = [
        Text(f"{row['version']} was refused: {printable('; '.join(map(str, row['refused'])))}", style="yellow")
        for row in rows
        if row["refused"]
    ]
    return Group(table, *problems, *refusals)


def facts(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(printable(value)))
    return table


def _table(leading: int = 0) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", expand=True, leading=leading)


def _begins(result: SearchResult) -> bool:
    """Whether the id says of which group a result is: that of its document."""
    return isinstance(result.group, str) and result.id.startswith(f"{result.group}#")


def _named(result: SearchResult) -> Text:
    """The id of a passage, and the page that it begins on."""
    page = (result.metadata or {}).get(PAGE_FIELD)
    return Text(printable(result.id) + ("" if page is None else f", page {printable(str(page))}"))


def _passage(result: SearchResult, *, full: bool = False) -> Text:
    shown = result.highlight.text if result.highlight and not full else result.text or ""
    text = without_controls(shown) if full else printable(shown[:1000])
    text = text.strip("\n")
    if not result.title:
        return Text(text or printable(result.id))
    return Text.assemble((printable(result.title), "bold"), f"  {text}" if text else "")


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _moved(rank: int, before: int, shown: int | None = None) -> Text:
    """An arrow for a move from rank `before` to `rank`, with the rank it came from or another one to show."""
    arrow, style = ("▲", "green") if rank < before else ("▼", "red") if rank > before else ("=", "dim")
    return Text(f"{arrow} {before if shown is None else shown:>2}", style=style)


def _moves(response: SearchResponse, rows: int) -> Text:
    if not response.reranked:
        return Text("not reranked: both sides are in stage-one order", style="yellow")
    rises = [result.retrieval_rank - rank for rank, result in enumerate(response.results[:rows], 1)]
    moved = sum(rise != 0 for rise in rises)
    line = f"{moved} of {len(rises)} moved"
    return Text(f"{line}; the biggest rise is by {max(rises)}" if moved and max(rises) > 0 else line)


def _facets(response: SearchResponse) -> Iterator[Text]:
    for field, counts in (response.facets or {}).items():
        shown = ", ".join(f"{_plain(entry.value)} {entry.count:,}" for entry in counts) or "no passage has it"
        yield Text.assemble((f"{printable(field)}: ", "bold"), shown)


def _plain(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _footer(response: SearchResponse) -> list[Text]:
    coverage = response.coverage
    timings = dict(response.timings_ms)
    total = timings.pop("total", None)
    lines = [
        *_facets(response),
        Text(
            f"version {printable(response.index_version)}, {printable(response.mode)}, "
            f"{coverage.answered} of {coverage.shards} shards answered ({coverage.fraction:.0%} of the passages)",
            style="dim",
        ),
    ]
    if total is not None:
        stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in timings.items())
        lines.append(Text(f"{total:.1f} ms: {stages}", style="dim"))
    lines += [Text(f"warning: {printable(warning)}", style="yellow") for warning in response.warnings]
    if response.next:
        lines.append(Text(f"next page: --after {printable(response.next)}", style="dim"))
    if response.degraded:
        lines.append(Text(f"degraded: {printable(response.degraded)}", style="yellow"))
    return lines
