"""What an index holds: vectors, words and token vectors."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from shoal.settings.base import Name, Settings


class IndexSettings(Settings):
    """Which vector index, and how it is searched."""

    index_kind: Name = Field(
        "auto",
        description="Index kind: flat, hnsw, cagra (which needs a GPU), ivf, ivf_sq8, ivf_pq, rabitq (files of "
        "shoal/indexes/), any FAISS factory string such as IVF1024,SQ8, or auto: by corpus size, dimensions and "
        "index_memory_gib.",
    )
    index_search: str = Field(
        "",
        description="Search parameters to use whatever recall they give, such as nprobe=16,refine=4 or efSearch=64.",
    )
    recall_target: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Share of the ten nearest passages that an approximate index shall find: the build measures what "
        "its search parameters give and the server uses the cheapest that reach it.",
    )
    train_passages: int = Field(
        262_144, ge=1, description="Vectors sampled from the whole corpus to train an index kind that needs training."
    )


class AutoSettings(Settings):
    """What index_kind auto and late_interaction auto go by."""

    index_memory_gib: float = Field(
        8.0,
        gt=0,
        le=1_000_000,
        description="Memory for the vector indexes of all shards together, in GiB, which index_kind auto stays within.",
    )
    late_gib: float = Field(
        1.0,
        ge=0,
        le=1_000_000,
        description="Disk for the token vectors of all shards together, in GiB, which late_interaction auto stays "
        "within: 32 bytes a token by default, 8 KB for a long passage.",
    )


class AnalyzerSettings(Settings):
    """What the words of a text are."""

    lexical_language: Name = Field(
        "english",
        description="Language of stemmer and stop words: a Snowball language, or `none` for neither. Text in scripts "
        "without spaces is cut into pairs of characters whatever the language.",
    )
    lexical_stopwords: bool = Field(True, description="Leave out the stop words of the language.")


class LexicalSettings(AnalyzerSettings):
    """Whether and how passages can be found by their words (BM25)."""

    lexical: bool = Field(True, description="Build the lexical index, which the modes lexical and hybrid search.")
    lexical_k1: float = Field(1.5, ge=0, le=10, description="BM25: how slowly repetition of a word saturates.")
    lexical_b: float = Field(0.75, ge=0, le=1, description="BM25: how much the length of a passage counts against it.")


def _share_of_a_byte(bits: int) -> int:
    if bits not in (1, 2, 4, 8):
        raise ValueError("should be 1, 2, 4 or 8")
    return bits


class LateSettings(Settings):
    """Whether and how token vectors are kept in the shards."""

    late_interaction: Literal["auto", "none", "stored"] = Field(
        "auto",
        description="stored: keep the token vectors of every passage in its shard, where reranking compares them, "
        "without a model that reads passages. auto: as in the current version; without one, if the encoder has them "
        "and they fit late_gib; always with late_encoder.",
    )
    late_dims: int = Field(
        128, ge=8, le=1024, multiple_of=8, description="Dimensions that stored token vectors are reduced to."
    )
    late_bits: Annotated[int, AfterValidator(_share_of_a_byte)] = Field(
        2, ge=1, le=8, description="Bits of each of these dimensions: 1, 2, 4 or 8."
    )
