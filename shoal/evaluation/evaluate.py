"""One evaluation from its settings to its outcome."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shoal.errors import InvalidArgument
from shoal.evaluation.absent import Absent, absent_passages
from shoal.evaluation.asking import ask_planned, open_asker, planned, settings_of
from shoal.evaluation.dataset import Dataset, read_dataset
from shoal.evaluation.known_items import known_items_of
from shoal.evaluation.measures import Row, judge
from shoal.evaluation.per_query import write_queries
from shoal.evaluation.runs import Run, extended, read_run, write_run
from shoal.index_root import versions
from shoal.index_root.manifest import VectorIndexInfo
from shoal.index_root.storage import Storage
from shoal.settings import EvaluateSettings

Asking = Callable[[EvaluateSettings, dict[str, str]], list[Run]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found. `settings`: those that decided it; `vectors`: the vector index, where it lies here.

    absent: relevant passages that the index lacks, where it lies here.
    """

    dataset: Dataset
    rows: list[Row]
    baseline: str
    settings: dict[str, Any]
    vectors: VectorIndexInfo | None = None
    absent: Absent | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the values of single queries."""
        rows = [asdict(replace(row, by_query={}, all_by_query={})) for row in self.rows]
        for row in rows:
            del row["by_query"], row["all_by_query"]
        return {
            "dataset": self.dataset.name,
            "queries": len(self.dataset.queries),
            "baseline": self.baseline,
            "rows": rows,
            "settings": self.settings,
            "judged": None if self.absent is None else self.absent.judged,
            "absent": None if self.absent is None else len(self.absent.ids),
        }


def ask_here(settings: EvaluateSettings, queries: dict[str, str]) -> list[Run]:
    """Ask all queries in every way that the settings want, in this process."""
    with open_asker(settings) as asker:
        return ask_planned(asker, queries, planned(settings, asker), settings.top_k)


def evaluate(settings: EvaluateSettings, ask: Asking = ask_here) -> Outcome:
    """Ask, judge, and write the run files that are wanted.

    Args:
        ask: Gets the runs for queries by id; by default in this process.

    Raises:
        InvalidArgument: Settings that leave nothing to measure, and what reading, asking and writing raise.
    """
    dataset = judged_queries(settings)
    given = [read_run(path) for path in settings.runs]
    asked = ask(settings, dataset.queries) if settings.index or settings.url else []
    runs = [*with_the_rest(asked), *given]
    if not runs:
        raise InvalidArgument("nothing to evaluate: give --index ROOT, --url URL or --runs FILES", param="index")
    rows = judge(runs, dataset.judgements, settings.baseline)
    if settings.save_runs:
        for run in runs:
            write_run(run, settings.save_runs)
    if settings.per_query:
        write_queries(dataset, runs, rows, settings.per_query)
    baseline = settings.baseline or runs[0].name
    if not settings.index:
        return Outcome(dataset, rows, baseline, settings_of(settings))
    storage = Storage(settings.index)
    manifest = versions.current_manifest(storage)
    absent = absent_passages(storage, manifest, dataset.judgements) if settings.dataset else None
    return Outcome(dataset, rows, baseline, settings_of(settings), manifest.index, absent)


def judged_queries(settings: EvaluateSettings) -> Dataset:
    """Read the judged queries that the settings name, or make some from passages of the index.

    Raises InvalidArgument for a dataset that cannot be read, and where there is neither a dataset nor an index.
    """
    if settings.dataset is not None:
        return read_dataset(settings.dataset, settings.split).sample(settings.queries)
    if settings.index is None:
        raise InvalidArgument(
            "there are no judged queries: give --dataset DIR, or --index ROOT to make some from its passages",
            param="dataset",
        )
    storage = Storage(settings.index)
    manifest = versions.current_manifest(storage)
    return known_items_of(storage, manifest, settings.sample_judgements).sample(settings.queries)


def with_the_rest(runs: Sequence[Run]) -> list[Run]:
    """Let what stage two ordered be followed by what stage one found beyond it, where that was asked as well."""
    by_name = {run.name: run for run in runs}
    return [extended(run, first) if (first := by_name.get(_stage_one(run))) else run for run in runs]


def _stage_one(run: Run) -> str:
    mode, plus, _ = run.name.partition("+")
    return mode if plus else ""
