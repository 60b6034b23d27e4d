"""The outcome of an evaluation: a table for the terminal, and one HTML file with plots that needs nothing else."""

import html
import io
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal import __version__
from shoal.evaluation.evaluate import Outcome
from shoal.evaluation.measures import MAIN, MEASURES, RESAMPLES, Row
from shoal.evaluation.recommend import Recommendation
from shoal.index_root.manifest import VectorIndexInfo
from shoal.system.terminal import printable

EXAMPLES = 10
"""Queries shown that gained most and that lost most."""
SIGNIFICANT = 0.05
"""p-value below which a difference is called significant."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #999 }
tbody tr:nth-child(even) { background: #f4f6f8 } svg { max-width: 100%; height: auto } .note { color: #57606a }
"""
"""Style sheet of the HTML report."""


def table(outcome: Outcome) -> RenderableType:
    """One line a run, with its difference from the baseline."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for number, heading in enumerate(_headings(outcome)):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in outcome.rows:
        shown.add_row(*map(Text, _cells(row)))
    lines: list[RenderableType] = [
        Text(f"{printable(outcome.dataset.name)}, {len(outcome.dataset.queries):,} judged queries"),
        shown,
    ]
    lines += [Text(_degraded(row), style="yellow") for row in outcome.rows if row.degraded]
    if absent := _absent(outcome):
        lines.append(Text(absent, style="yellow"))
    return Group(*lines, Text(_note(outcome), style="dim"))


def recommendation_table(recommendation: Recommendation) -> RenderableType:
    """One line a stage: what a server does, what is best, whether it is surely better; and how to serve the winner."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for number, heading in enumerate(("stage", "tried", f"{MAIN} now", "best", "p", "held out", "p")):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for choice in recommendation.choices:
        star = "*" if choice.is_sure else ""
        cells = [choice.stage, str(choice.tried), f"{choice.before:.4f}", f"{choice.after:.4f}"]
        cells += [f"{choice.p_value:.4f}", f"{choice.held_out:+.4f}", f"{choice.held_out_p:.4f}{star}"]
        shown.add_row(*cells)
    made = ", made from passages: real questions have fewer of their words" if recommendation.are_made else ""
    lines: list[RenderableType] = [
        Text(f"{printable(recommendation.dataset)}, {recommendation.queries:,} queries{made}"),
        shown,
    ]
    lines += [
        Text(f"{choice.stage}: best with " + ", ".join(f"{name} {value}" for name, value in choice.values.items()))
        for choice in recommendation.choices
    ]
    winner = recommendation.winner
    command = " ".join(["shoal serve --index ROOT", *winner.arguments])
    lines.append(Text(f"serve: {command}", style="bold"))
    note = (
        "p: paired randomization test over queries. held out: the gain of choosing on some queries for others; without "
        "a * it may be chance, and the server stays as it is."
    )
    return Group(*lines, Text(note, style="dim"))


def page(outcome: Outcome) -> str:
    """One HTML page; all that comes from outside is escaped."""
    title = f"Evaluation on {outcome.dataset.name}"
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in _headings(outcome))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in outcome.rows
    )
    settings = ", ".join(f"{name} {value}" for name, value in outcome.settings.items())
    compared = [row for row in outcome.rows if row.difference is not None]
    degraded = "".join(f"<p>{html.escape(_degraded(row))}</p>" for row in outcome.rows if row.degraded)
    if absent := _absent(outcome):
        degraded += f"<p>{html.escape(absent)}</p>"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p class=note>{len(outcome.dataset.queries):,} judged queries. {html.escape(settings)}. Shoal {__version__}.",
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{degraded}",
        f"<p class=note>{html.escape(_note(outcome))}</p><h2>Quality by stage</h2>{_quality(outcome.rows)}",
    ]
    if outcome.vectors and outcome.vectors.curve:
        parts.append(f"<h2>Recall and latency of the vector index</h2>{_curve(outcome.vectors)}")
    if compared:
        parts.append(f"<h2>Gains and losses of single queries</h2>{_gains(outcome, compared)}")
        parts += [_examples(outcome, row) for row in compared]
    return "\n".join([*parts, "</html>\n"])


def _headings(outcome: Outcome) -> list[str]:
    return ["stage", *MEASURES, "p50 ms", "p95 ms", f"{MAIN} - {outcome.baseline}", "p"]


def _cells(row: Row) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        printable(row.name),
        *(f"{row.values[name]:.4f}" for name in MEASURES),
        number(row.p50_ms, ".1f"),
        number(row.p95_ms, ".1f"),
        number(row.difference, "+.4f"),
        number(row.p_value, ".4f") + ("*" if row.p_value is not None and row.p_value < SIGNIFICANT else ""),
    ]


def _note(outcome: Outcome) -> str:
    return (
        f"p: paired randomization test over queries against {outcome.baseline}, {RESAMPLES + 1:,} permutations; "
        f"* below {SIGNIFICANT}, not corrected for the number of comparisons."
    )


def _degraded(row: Row) -> str:
    return f"{row.name}: {row.degraded:,} answers were less than what was asked for"


def _absent(outcome: Outcome) -> str:
    """A sentence about relevant passages that the index lacks; empty if it has all, or lies elsewhere."""
    if outcome.absent is None or not outcome.absent.ids:
        return ""
    return f"{printable(str(outcome.absent))}: they count as misses"


def _quality(rows: Sequence[Row]) -> str:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    names = [row.name for row in rows][::-1]
    for axis, measure in zip(axes, MEASURES, strict=True):
        values = [row.values[measure] for row in rows][::-1]
        bars = axis.barh(names, values, color="#2b6cb0")
        axis.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
        axis.set_xlim(0, 1.18)
        axis.set_title(measure, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _gains(outcome: Outcome, rows: Sequence[Row]) -> str:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        gains = sorted((gain for gain, _ in _by_gain(outcome, row)), reverse=True)
        axis.plot(range(1, len(gains) + 1), gains, label=row.name, linewidth=1.5)
    axis.axhline(0, color="#999", linewidth=0.8)
    axis.set_xlabel("queries, each line in its own order")
    axis.set_ylabel(f"{MAIN} - {outcome.baseline}")
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _curve(index: VectorIndexInfo) -> str:
    """What the build measured for each setting of the search, with the one that is used."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(
        [point.latency_ms for point in index.curve],
        [point.recall for point in index.curve],
        marker="o",
        color="#2b6cb0",
        label=f"{index.kind}, as the build measured it",
    )
    for point in index.curve:
        axis.annotate(point.search, (point.latency_ms, point.recall), (4, -10), textcoords="offset points", fontsize=7)
    if index.recall_at_10 is not None and index.latency_ms is not None:
        used = f"used: {index.search}, recall {index.recall_at_10:.4f}"
        axis.plot(index.latency_ms, index.recall_at_10, "D", color="#c05621", markersize=9, zorder=3, label=used)
    axis.set_xscale("log")
    axis.set_xlabel("ms for one query in one shard")
    axis.set_ylabel("recall@10")
    axis.legend(fontsize=8, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: object) -> str:
    import matplotlib

    target = io.StringIO()
    # Text stays text, and equal outcomes give equal pages.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shoal"}):
        figure.savefig(target, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    drawn = target.getvalue()
    return drawn[drawn.index("<svg") :]


def _by_gain(outcome: Outcome, row: Row) -> list[tuple[float, str]]:
    """Gains over the baseline with their queries, the greatest first."""
    base = next(one for one in outcome.rows if one.name == outcome.baseline).by_query
    gains = [(row.by_query[query] - base[query], query) for query in base]
    return sorted(gains, key=lambda gain: (-gain[0], gain[1]))


def _examples(outcome: Outcome, row: Row) -> str:
    gains = _by_gain(outcome, row)
    shown = [one for one in gains[:EXAMPLES] if one[0] > 0] + [one for one in gains[-EXAMPLES:] if one[0] < 0]
    up, down = sum(gain > 0 for gain, _ in gains), sum(gain < 0 for gain, _ in gains)
    lines = "".join(
        f"<tr><td>{html.escape(outcome.dataset.queries[query])}</td><td>{html.escape(query)}</td><td>{gain:+.4f}</td>"
        for gain, query in shown
    )
    return (
        f"<details><summary>{html.escape(row.name)}: {up:,} queries gain, {down:,} lose</summary><table><thead><tr>"
        f"<th>query</th><th>id</th><th>{MAIN}</th></tr></thead><tbody>{lines}</tbody></table></details>"
    )
