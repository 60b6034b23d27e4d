"""What an evaluation takes."""

from typing import Literal

from pydantic import Field

from shoal.modes import Mode
from shoal.settings.base import Name, Settings


class EvaluateSettings(Settings):
    """What `shoal eval` and `python -m jobs.evaluate` take."""

    dataset: Name = Field(description="Folder in BEIR layout: queries.jsonl and qrels/SPLIT.tsv, plain or gzipped.")
    split: Name = Field("test", description="Judgements to measure with: qrels/SPLIT.tsv.")
    index: Name | None = Field(None, description="Index root to evaluate here, without a server.")
    url: Name | None = Field(None, description="Server to evaluate.")
    modes: list[Mode] | None = Field(None, description="How stage one searches. Default: every way that the index has.")
    rerank: Literal["both", "yes", "no", "late"] = Field(
        "both",
        description="With the reranker, without it, or both; late: without it, and ordered by the token vectors that "
        "the shards hold.",
    )
    top_k: int = Field(50, ge=1, le=1000, description="Candidates that stage two orders; the rest of 100 follows them.")
    queries: int | None = Field(None, ge=1, description="Ask only so many of the judged queries, sampled with a seed.")
    runs: list[str] = Field([], description="TREC run files that are measured as well.")
    baseline: str | None = Field(
        None, description="What the others are compared with, such as dense+rerank. Default: the first row."
    )
    save_runs: str | None = Field(None, description="Folder for one TREC run file for each row.")
    html: str | None = Field(None, description="File for a report with plots.")
    reranker: Name = Field("late_interaction", description="Reranker, with --index.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each model, with --index.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute, with --index.")
    timeout_ms: int = Field(60_000, ge=10, le=600_000, description="Deadline of one query.")
