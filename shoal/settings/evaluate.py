"""What an evaluation takes."""

from typing import Literal

from pydantic import Field

from shoal.modes import Mode
from shoal.settings.base import Name, Settings
from shoal.settings.ranking import FusionSettings, SecondStageSettings, SpellingSettings


class JudgedQuerySettings(Settings):
    """Where queries and their judgements come from, and where the answers."""

    help_panel = "Evaluate"

    dataset: Name | None = Field(
        None,
        description="Folder in BEIR layout: queries.jsonl and qrels/SPLIT.tsv, plain or gzipped. Default: known-item "
        "queries, made from passages of the index (sample_judgements).",
    )
    split: Name = Field("test", description="Judgements to measure with: qrels/SPLIT.tsv.")
    sample_judgements: int = Field(
        200,
        ge=1,
        le=100_000,
        description="Without a dataset, with --index: so many passages are drawn, and each is asked for by a few of "
        "its words. That favours search by words more than real questions do.",
    )
    queries: int | None = Field(None, ge=1, description="Ask only so many of the judged queries, sampled with a seed.")


# The options of a server come first in JSON, and last in --help.
class EvaluateSettings(FusionSettings, SpellingSettings, SecondStageSettings, JudgedQuerySettings):
    """What `shoal eval` and `python -m jobs.evaluate` take.

    The options of ranking are those of a server, for --index: each evaluation may have others.
    """

    index: Name | None = Field(None, description="Index root to evaluate here, without a server.")
    url: Name | None = Field(None, description="Server to evaluate.")
    modes: list[Mode] | None = Field(None, description="How stage one searches. Default: every way that the index has.")
    rerank: Literal["both", "yes", "no", "late"] = Field(
        "both",
        description="With the reranker, without it, or both; late: without it, and ordered by the token vectors that "
        "the shards hold.",
    )
    top_k: int = Field(50, ge=1, le=1000, description="Candidates that stage two orders; the rest of 100 follows them.")
    runs: list[str] = Field([], description="TREC run files that are measured as well.")
    baseline: str | None = Field(
        None, description="What the others are compared with, such as dense+rerank. Default: the first row."
    )
    save_runs: str | None = Field(None, description="Folder for one TREC run file for each row.")
    per_query: str | None = Field(
        None,
        description="File for the measures of every query in every row: JSON lines, or a table between tabs if it ends "
        "in .tsv.",
    )
    html: str | None = Field(None, description="File for a report with plots.")
    reranker: Name = Field("late_interaction", description="Reranker, with --index.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each model, with --index.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute, with --index.")
    timeout_ms: int = Field(60_000, ge=10, le=600_000, description="Deadline of one query.")


class RecommendSettings(EvaluateSettings):
    """What `shoal eval` takes on top of `python -m jobs.evaluate`."""

    help_panel = "Evaluate"

    recommend: bool = Field(
        False,
        description="Try many options of ranking on the judged queries, with --index, each query searched once, and "
        "say which rank best, by how much, whether that may be chance, and how to serve them.",
    )
