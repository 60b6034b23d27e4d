"""What planning the capacity of a cluster takes."""

from typing import Literal

from pydantic import Field

from shoal.settings.base import Name
from shoal.settings.index import AutoSettings
from shoal.settings.inference import EMBEDDED_ENCODER


class CapacitySettings(AutoSettings):
    """What `shoal plan` takes."""

    passages: float | None = Field(
        None, ge=1, le=1e12, description="Passages of the corpus; 1e9 is a billion. Only --calibrate goes without."
    )
    dim: int = Field(384, ge=8, le=65_536, description="Dimensions of a vector: 384 for the embedded encoder.")
    qps: float = Field(10.0, gt=0, le=1e7, description="Queries a second to be answered.")
    p99_ms: float = Field(200.0, gt=0, le=600_000, description="What 99 of 100 answers shall take at most.")
    recall: float = Field(
        0.95, gt=0, le=1, description="Share of the ten nearest passages that stage one shall find, as recall_target."
    )
    passage_bytes: float = Field(
        600.0, ge=1, le=10_000_000, description="UTF-8 bytes of a passage with its metadata, on average."
    )
    lexical: bool = Field(True, description="Search by words too, so that queries are hybrid.")
    top_k: int = Field(25, ge=1, le=10_000, description="Candidates taken from stage one.")
    rerank_top_k: int = Field(0, ge=0, le=10_000, description="Of these, how many stage two reads; 0 leaves it out.")
    index_kind: Literal["auto", "flat", "ivf_sq8", "ivf_pq", "rabitq"] = Field(
        "auto", description="Index kind; auto as a build chooses it."
    )
    shards: int | None = Field(
        None, ge=1, le=100_000, description="Shards. Default: the fewest that fit the nodes and meet p99_ms."
    )
    node_memory_gib: float = Field(64.0, gt=0, le=100_000, description="Memory of one node, in GiB.")
    node_cores: int = Field(16, ge=1, le=1024, description="Cores of one node.")
    all_in_memory: bool = Field(
        False,
        description="Plan memory for all files. Else it holds the vector index and the words, and exact vectors and "
        "texts of candidates are taken as read from disk.",
    )
    versions_in_memory: int = Field(
        2,
        ge=1,
        le=10,
        description="Versions that memory has room for: 2 where the old one answers while a new one is loaded; with 1 "
        "a swap makes queries wait for the disk.",
    )
    utilisation: float = Field(
        0.6, gt=0, le=0.95, description="Share of the time that cores may be busy; what is above it waits long."
    )
    min_replicas: int = Field(
        2,
        ge=1,
        le=1000,
        description="Copies of the index at least, each on nodes of its own; from 2 replicas of a shard on "
        "slow calls get a second attempt.",
    )
    constants: str = Field(
        "~/.config/shoal/capacity.json",
        description="File of the constants of this machine, which --calibrate writes. Without one: those that "
        "come with Shoal, of a machine that the plan names.",
    )
    encoder: Name = Field(EMBEDDED_ENCODER, description="Encoder that --calibrate measures.")
    reranker: Name = Field("late_interaction", description="Reranker that --calibrate measures.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute that are measured.")
