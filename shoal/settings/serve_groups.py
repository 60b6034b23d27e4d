"""The options of a server in groups, of which `ServeSettings` is composed."""

from typing import Literal

from pydantic import Field

from shoal.settings.base import Name, Settings
from shoal.settings.network import ModelAlias, Origin


class ServedModelSettings(Settings):
    """Which index is served, and with which models."""

    help_panel = "Serve"

    index: Name = Field(description="Index root to serve: a local path or a URI.")
    encoder: Name | None = Field(
        None, description="Encoder for queries. Default: the one that the index was built with; another one is refused."
    )
    sparse_encoder: Name | None = Field(
        None,
        description="Learned sparse model for queries, of an index that has one. Default: the one that it was built "
        "with; another one is refused.",
    )
    late_encoder: Name | None = Field(
        None,
        description="Multi-vector model for queries, of an index whose token vectors are those of one. Default: the "
        "one that it was built with; another one is refused.",
    )
    reranker: Name = Field(
        "late_interaction",
        description="Reranker: late_interaction, overlap, none, a folder that jobs.train_reranker wrote, or a "
        "cross-encoder by preset, hub name or local path, or the address of an endpoint such as http://host/v1/rerank.",
    )


class ReplicaSettings(Settings):
    """How many replicas serve, and where they lie."""

    help_panel = "Serve"

    retriever_replicas: int = Field(
        0, ge=0, le=1000, description="Replicas of every shard; 0 puts all shards into every ingress replica."
    )
    encoder_replicas: int = Field(
        0, ge=0, le=1000, description="Replicas of the query encoder; 0 puts one into every ingress replica."
    )
    reranker_min_replicas: int = Field(1, ge=0, le=1000, description="Reranker replicas kept at all times.")
    reranker_max_replicas: int = Field(1, ge=1, le=1000, description="Reranker replicas under load.")
    reranker_idle_s: float = Field(
        30.0, ge=1, le=86_400, description="Seconds after which rerankers that the load no longer needs are stopped."
    )
    ingress_replicas: int = Field(1, ge=1, le=1000, description="Replicas of the HTTP ingress.")
    replicas_per_node: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Most replicas of one shard, of the encoder and of the ingress on one node; 1 makes sure that no "
        "node has both replicas of a shard, and needs as many nodes. Default: spread where there is room.",
    )


class HealthCheckSettings(Settings):
    """How replicas that no longer answer are found."""

    help_panel = "Serve"

    health_check_period_s: float = Field(
        1.0, ge=0.1, le=600, description="Seconds between the questions to every replica whether it is alive."
    )
    health_check_timeout_s: float = Field(
        2.0,
        ge=0.1,
        le=600,
        description="Seconds that a replica may take to say so; one that has not three times in a row is replaced.",
    )


class ReplicaResourceSettings(Settings):
    """What one replica has: threads, memory for queries that come again, CPUs and GPUs."""

    help_panel = "Serve"

    encoder_threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="CPU threads of one query encoder. Default: the cores, shared by the encoders; 8 at most.",
    )
    query_cache: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="Queries whose vectors each query encoder remembers, and where stored tokens rerank those of their "
        "tokens, in 64 MiB at most; 0 remembers none.",
    )
    retriever_threads: int = Field(1, ge=1, le=256, description="CPU threads of one retriever.")
    reranker_threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="CPU threads of one reranker. Default: the cores, shared by reranker_max_replicas; 8 at most.",
    )
    cpus_per_replica: float = Field(
        0.1,
        ge=0,
        le=64,
        description="CPUs that Ray reserves for one encoder, retriever or reranker; a fraction shares cores.",
    )
    gpus_per_replica: float = Field(
        0,
        ge=0,
        le=8,
        description="GPUs that Ray reserves for one encoder or reranker replica; with retriever_device cuda for one "
        "retriever too.",
    )
    retriever_device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Where vectors are searched. cuda: on a GPU that has a copy of each shard, where the index is flat "
        "or ivf and no filter, namespace or deletion applies, else on the CPU. Not yet run on hardware.",
    )


class RequestLimitSettings(Settings):
    """What a request may ask for, and what it gets when it does not say."""

    help_panel = "Serve"

    top_k: int = Field(
        25, ge=1, le=10_000, description="Candidates taken from stage one when a request names no top_k."
    )
    top_n: int = Field(10, ge=1, le=10_000, description="Results returned when a request names no top_n.")
    max_top_k: int = Field(1000, ge=1, le=10_000, description="Largest top_k and top_n accepted.")
    max_query_bytes: int = Field(8192, ge=1, le=1_000_000, description="Longest query accepted, in UTF-8 bytes.")
    max_queries: int = Field(64, ge=1, le=10_000, description="Most queries accepted in one request.")
    max_results: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Most results of one request, those of all its queries together; with explain, most candidates.",
    )
    max_vectors: int = Field(
        1000, ge=1, le=1_000_000, description="Most results of one request that wants their vectors."
    )
    max_token_vectors: int = Field(
        10_000, ge=1, le=10_000_000, description="Most vectors of tokens that one answer of /v1/embed holds."
    )
    max_body_bytes: int = Field(1_000_000, ge=1_000, le=100_000_000, description="Largest request body accepted.")
    max_write_body_bytes: int = Field(
        16 * 2**20,
        ge=1_000,
        le=2**28,
        description="Largest body of a request that writes passages. About ten times as much memory is taken while it "
        "is read.",
    )
    max_passages: int = Field(
        1000, ge=1, le=10_000, description="Most passages that one request may write, delete by their ids or update."
    )
    max_ids: int = Field(
        1000, ge=1, le=10_000, description="Most ids of passages that one request may fetch, or one page may list."
    )
    max_id_bytes: int = Field(1024, ge=1, le=65_536, description="Longest id of a passage, in UTF-8 bytes.")
    compress_bytes: int = Field(
        65_536,
        ge=0,
        le=1_000_000_000,
        description="Answers of this size and larger are packed with gzip for clients that accept it; 0 packs none.",
    )


class DeadlineSettings(Settings):
    """How long a request may take."""

    help_panel = "Serve"

    body_timeout_s: float = Field(
        10.0, ge=0.01, le=600, description="Seconds that a request's body may take to arrive; later gets 408."
    )
    timeout_ms: int = Field(
        10_000,
        ge=10,
        le=600_000,
        description="Deadline of a request that names none; a CPU reranker needs seconds, a GPU milliseconds.",
    )
    max_timeout_ms: int = Field(60_000, ge=10, le=600_000, description="Longest deadline a request may ask for.")
    write_timeout_ms: int = Field(
        30_000,
        ge=10,
        le=600_000,
        description="Deadline of a request that writes passages; most of it goes into encoding their texts.",
    )
    drain_s: float = Field(
        20.0,
        ge=0,
        le=600,
        description="Seconds that a server or a replica that stops has to finish what it is answering.",
    )


class AdmissionSettings(Settings):
    """How many requests and queries a replica holds at once."""

    help_panel = "Serve"

    max_requests: int = Field(
        48, ge=1, le=100_000, description="Searches that one ingress replica works on at once; more get 429."
    )
    max_waiting: int = Field(
        256, ge=1, le=100_000, description="Queries that may wait in one ingress replica; more get 429."
    )
    max_writes: int = Field(
        16, ge=1, le=10_000, description="Requests that one ingress replica writes for at once; more get 429."
    )
    max_batch: int = Field(32, ge=1, le=1024, description="Queries that one fan-out serves together.")


class BacklogSettings(Settings):
    """How much may be written before something is compacted."""

    help_panel = "Serve"

    max_backlog_rows: int = Field(
        100_000,
        ge=1,
        description="Passages that were written to one shard since its version was built, from which on writes get 429 "
        "until they are compacted (`shoal compact`).",
    )
    max_backlog_mib: int = Field(
        2048,
        ge=1,
        description="MiB of texts, vectors and token codes that were written, from which on writes get 429 too.",
    )


class FilterLimitSettings(Settings):
    """How large a filter may be, and what is remembered of it."""

    help_panel = "Serve"

    max_filter_width: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Conditions that one filter may have, and values that one $in may list; all of these and nested "
        "filters together may be ten times as many.",
    )
    max_filter_depth: int = Field(
        16, ge=1, le=100, description="Levels of $and, $or and $not that a filter may have, its own included."
    )
    filter_cache_bytes: int = Field(
        64 * 2**20, ge=0, description="Memory of one shard for what earlier filters selected; 0 keeps nothing."
    )


class FanOutSettings(Settings):
    """How a query asks the shards, and how long it waits for one."""

    help_panel = "Serve"

    fetch_with_hits: bool = Field(
        True,
        description="Shards send texts with their hits (fewer hops); false fetches them after the merge (many shards).",
    )
    retrieve_share: float = Field(
        0.7,
        gt=0,
        le=1,
        description="Share of the remaining time that shards get before the answer goes on without them.",
    )
    shard_patience_ms: int = Field(
        1000,
        ge=10,
        le=600_000,
        description="Silence after which queries go on without a shard until it answers again; ten times its usual "
        "latency, if that is more.",
    )
    hedge_percentile: float = Field(
        98,
        ge=50,
        le=100,
        description="A call that takes longer than this percentile of recent ones is made a second time, if the "
        "service has several replicas.",
    )
    hedge_budget: float = Field(
        0.05, ge=0, le=1, description="Most such second calls, as a share of the first ones; 0 makes none."
    )


class AccessSettings(Settings):
    """Who may ask."""

    help_panel = "Serve"

    api_keys_file: str | None = Field(
        None,
        description="File of API keys, hashed, one a line as `shoal keys` prints it; it is read again when it changes. "
        "The variable SHOAL_API_KEYS may hold such lines too. Without either nobody is asked for a key.",
    )
    anonymous: bool = Field(
        False,
        description="Serve beyond loopback although there is no API key: whoever reaches the port may search. What "
        "changes passages or the active version needs a key all the same.",
    )
    allowed_hosts: list[Name] | None = Field(
        None,
        description="Names by which the server may be asked, beside its addresses. Default: with API keys any, without "
        "them this machine's own and the one it listens on.",
    )
    cors_origin: list[Origin] | None = Field(
        None, description="Pages of other sites that may ask this server, such as https://search.example.org."
    )
    page: bool = Field(
        True,
        description="Serve a page for people at /. Its files need no API key, as they say nothing of the index; what "
        "it asks the server for does.",
    )
    mcp: bool = Field(True, description="Answer assistants at /mcp, if the extra `mcp` is installed.")


class DialectSettings(Settings):
    """What clients of other vendors find."""

    help_panel = "Serve"

    model_alias: list[ModelAlias] | None = Field(
        None,
        description="Names by which clients of other vendors may ask for the models that are served, as NAME=SERVED: "
        "rerank-v3.5=bge-reranker-v2-m3. Any other name than those of the models is refused; answers carry their own.",
    )


class LoggingSettings(Settings):
    """What is logged, how, and where."""

    help_panel = "Serve"

    log_format: Literal["text", "json"] = Field("text", description="Form of the server's log lines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level that is logged; DEBUG has a line for every call of a model or shard."
    )
    log_dir: str | None = Field(
        None, description="Folder on each node for the server's logs. Default: Ray's, which ends with its Ray."
    )
    slow_query_ms: int = Field(
        5_000, ge=0, description="A query that takes longer is logged with the time of every stage; 0 logs all."
    )
    log_queries: bool = Field(False, description="Slow-query lines hold the text of the query too.")
    trace_queries: bool = Field(
        False,
        description="Spans of searches hold the text of the query too. Spans are sent where an exporter of "
        "OpenTelemetry is configured by its own variables (OTEL_EXPORTER_OTLP_ENDPOINT).",
    )


class VersionSettings(Settings):
    """How versions reach a server: how often it looks for one, and where it keeps its shards."""

    help_panel = "Serve"

    cache_dir: str = Field("~/.cache/shoal/shards", description="Where retrievers keep shards of a remote index root.")
    cache_bytes: int = Field(
        100 * 2**30, ge=0, description="Size bound of that folder; least recently used shards go first."
    )
    watch_s: float = Field(
        5.0, ge=0.1, le=3600, description="Seconds between looks at CURRENT, so that a published version goes live."
    )
