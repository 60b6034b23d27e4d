"""What fitting a learned blend takes."""

from typing import Literal

from pydantic import Field

from shoal.settings.base import Name
from shoal.settings.ranking import FusionSettings, SpellingSettings


class BlendTrainingSettings(FusionSettings, SpellingSettings):
    """Everything that `python -m jobs.train_blend` takes.

    The options of ranking are those of the server that the blend is for.
    """

    help_panel = "Train"

    index: Name = Field(description="Index root whose answers are judged; it needs a lexical index.")
    dataset: Name = Field(description="Folder in BEIR layout: queries.jsonl and qrels/SPLIT.tsv, plain or gzipped.")
    split: Name = Field("train", description="Judgements to learn from; keep others to judge with: qrels/SPLIT.tsv.")
    output: Name = Field(description="File to write the blend to, as JSON.")
    queries: int | None = Field(
        None, ge=1, description="Learn from so many of the judged queries, sampled with a seed. Default: all."
    )
    reranker: Name = Field(
        "late_interaction",
        description="Reranker whose scores it is fitted over; stored token vectors in its place where the version has "
        "them.",
    )
    top_k: int = Field(50, ge=2, le=1000, description="Candidates of a query that are ordered.")
    leaves: int = Field(8, ge=2, le=64, description="Leaves of a tree, at most.")
    seed: int = Field(0, ge=0, le=2**31, description="Decides the parts of cross-validation and what trees draw.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each model.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute.")
    timeout_ms: int = Field(60_000, ge=10, le=600_000, description="Deadline of one query.")
