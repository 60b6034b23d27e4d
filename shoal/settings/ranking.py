"""How candidates are ranked: the options that `shoal serve` and `shoal eval` share."""

from typing import Literal

from pydantic import Field

from shoal.modes import Mode
from shoal.settings.base import Name, Settings


class SearchModeSettings(Settings):
    """How stage one searches."""

    help_panel = "Fusion"

    mode: Literal["auto", Mode] = Field(
        "auto",
        description="How stage one searches when a request names no mode: by vectors, by words, by the terms of a "
        "learned sparse model, or by all that the version has; auto is hybrid where it has a lexical index, else "
        "dense.",
    )


class SpellingSettings(Settings):
    """What is made of words that no passage holds."""

    help_panel = "Fusion"

    correct_spelling: bool = Field(
        True,
        description="Take a word of a query that no passage holds for the one that most passages hold among those one "
        "slip away: a letter too many, too few or wrong, or two swapped. The answer's warnings say so.",
    )


class FusionSettings(Settings):
    """How a hybrid query becomes one ranking."""

    window: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Candidates that each way of searching brings into a hybrid answer. Fixed, so that a "
        "longer page continues a shorter one; only a top_k beyond it widens it.",
    )
    fusion: Literal["weighted", "rrf"] = Field(
        "weighted",
        description="How the rankings are fused: by scores scaled to 0..1 for each query, or by reciprocal ranks.",
    )
    rrf_k: int = Field(60, ge=1, le=100_000, description="The constant of reciprocal rank fusion.")
    lexical_weight: float = Field(
        0.3, ge=0, le=1, description="Share of the words in weighted fusion; vectors have the rest."
    )
    sparse_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a learned sparse model in weighted fusion, where the version has one; vectors and words "
        "share the rest as lexical_weight says.",
    )
    rerank_dense_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="What a hybrid answer adds to a rerank score for each unit of cosine similarity. Default: 0.25 "
        "with late interaction, trained or not, whose scores are cosines too, else 0.",
    )
    rerank_lexical_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="What it adds for the best BM25 score of the query, and for others in proportion. Default: 0.2 "
        "with late interaction, else 0.",
    )


class SecondStageSettings(Settings):
    """What the second stage compares a query with, stored token vectors or texts that it reads, and what it adds."""

    help_panel = "Serve"

    blend: Name | None = Field(
        None,
        description="Learned blend that orders reranked hybrid answers: a file that `python -m jobs.train_blend` has "
        "fitted to judgements over this index. On a cluster its path is the same on all nodes.",
    )

    stored_tokens: bool = Field(
        True,
        description="Rerank by the token vectors that the shards hold, where they do and the reranker is "
        "late_interaction; off, it reads the passages, which takes many times as long for about 0.001 nDCG@10. One "
        "request reads them with rerank read.",
    )

    shortlist: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="How many candidates the reranker reads, where the version has token vectors (--late-interaction "
        "stored): the best of top_k by these, and top_n at least. Default: all of top_k.",
    )
