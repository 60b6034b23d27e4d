"""Every option of Shoal, declared once: its name, type, default, bounds and help text.

The command lines of `shoal` and of the jobs, their SHOAL_* environment variables and the arguments of the Serve
application are all derived from these models (`shoal/cli/options.py`).
"""

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
MetadataType = Annotated[
    str, StringConstraints(pattern=r"^.+:(string|integer|number|boolean|timestamp|list|none)$", strip_whitespace=True)
]
GateDemand = Annotated[str, StringConstraints(pattern=r"^(qrels|min_ndcg|max_drop|recall)=.+$", strip_whitespace=True)]
EMBEDDED_ENCODER = "all-MiniLM-L6-v2"


def _network(text: str) -> str:
    try:
        return str(ip_network(text.strip(), strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is no address and no network such as 10.0.0.0/8") from None


Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+$", strip_whitespace=True)]
"""A web page's origin as browsers send it: scheme, host and port if it is not the scheme's own."""
Network = Annotated[str, AfterValidator(_network)]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InferenceSettings(Settings):
    """How any model computes, encoder or reranker."""

    backend: Name = Field(
        "auto",
        description="What computes: torch, openvino (CPUs), another file of shoal/encoders/, or auto: the fastest that "
        "the machine supports.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models compute; auto takes a GPU if there is one."
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = Field(
        "auto",
        description="Precision of inference; auto is float16 on a GPU, bfloat16 on a CPU that has it, else float32. "
        "int8 needs OpenVINO and loses a little quality.",
    )
    torch_compile: bool = Field(
        False, description="Compile models with torch.compile: slow to start, faster afterwards on GPUs."
    )
    batch_tokens: int | None = Field(
        None,
        ge=256,
        le=1_000_000,
        description="Tokens, padding included, that one forward pass may hold. Default: 2048 on a CPU, 65536 on a GPU.",
    )
    model_cache_dir: str = Field(
        "~/.cache/shoal/models", description="Where models converted for OpenVINO are kept on each machine."
    )


class EncoderSettings(InferenceSettings):
    """Which bi-encoder, and how it computes."""

    encoder: Name = Field(
        EMBEDDED_ENCODER,
        description="Encoder: a preset, a hub name, a local path, or `hashing` (weightless, for trials).",
    )
    max_length: int | None = Field(
        None, ge=8, le=32768, description="Tokens read of a text; the model's own limit if unset."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one worker or replica.")


class TokenCacheSettings(Settings):
    """What late interaction remembers."""

    token_cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Size bound of the token vectors that late interaction keeps of passages it read; 0 keeps none.",
    )


class RerankerSettings(InferenceSettings, TokenCacheSettings):
    """Which reranker, and how it computes."""

    reranker: Name = Field(
        "late_interaction",
        description="Reranker: `late_interaction` (the encoder's own token vectors, no further weights), `overlap` "
        "(weightless, for trials), a folder of jobs.train_reranker, or a cross-encoder by preset, hub name or path.",
    )
    # Late interaction reads the passages with the encoder of the index.
    encoder: Name = Field(EMBEDDED_ENCODER, description="Encoder whose token vectors late interaction uses.")
    max_length: int | None = Field(
        None, ge=8, le=32768, description="Tokens read of a pair; the model's own limit if unset."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one replica.")


class IndexSettings(Settings):
    """Which vector index, and how it is searched."""

    index_kind: Name = Field(
        "auto",
        description="Index kind: flat, hnsw, ivf, ivf_sq8, ivf_pq, rabitq (files of shoal/indexes/), any FAISS factory "
        "string such as IVF1024,SQ8, or auto: by corpus size, dimensions and index_memory_gib.",
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

    late_interaction: Literal["none", "stored"] = Field(
        "none",
        description="stored: keep the token vectors of every passage in its shard, so that a query may ask for "
        "`rerank: late`, which compares them there, without a model that reads passages.",
    )
    late_dims: int = Field(
        128, ge=8, le=1024, multiple_of=8, description="Dimensions that stored token vectors are reduced to."
    )
    late_bits: Annotated[int, AfterValidator(_share_of_a_byte)] = Field(
        2, ge=1, le=8, description="Bits of each of these dimensions: 1, 2, 4 or 8."
    )


class SourceSettings(Settings):
    """Where passages come from and which fields they have."""

    source: Name = Field(
        description="Input: a file, a folder, a glob or a URI of JSONL, Parquet, CSV, TSV, BEIR or .txt/.md."
    )
    format: Literal["auto", "jsonl", "parquet", "csv", "tsv", "beir", "text"] = Field(
        "auto", description="Format of the input; auto goes by the file names."
    )
    id_field: str | None = Field(None, description="Field of the passage id. Default: id, or _id for BEIR.")
    text_field: str = Field("text", description="Field of the text.")
    title_field: str | None = Field(
        None, description="Field of a title that is read before the text. Default: none, or title for BEIR."
    )
    vectors_field: Name | None = Field(
        None,
        description="Field of vectors that were computed elsewhere (JSONL, Parquet): lists of as many numbers as the "
        "encoder has dimensions. They are normalised and indexed, and no text is encoded; queries still are, so the "
        "encoder has to be the one that made them.",
    )
    metadata_fields: list[str] | None = Field(
        None, description="Fields kept as metadata. Default: every other field; give an empty list for none."
    )
    metadata_types: list[MetadataType] | None = Field(
        None,
        description="Types of metadata fields for filters, such as year:integer: string, integer, number, boolean, "
        "timestamp, list, or none for a field not to filter by. A passage whose value does not fit is rejected. "
        "Default: what fits all values of the field.",
    )
    columns: list[str] | None = Field(None, description="Column names of a CSV or TSV file that has no header line.")
    chunk_characters: int | None = Field(
        None,
        ge=50,
        le=1_000_000,
        description="Cut texts into passages of at most this many characters. Default: 1000 for .txt/.md, else none.",
    )
    chunk_overlap: int = Field(0, ge=0, description="Characters that neighbouring passages of one text share.")
    max_passage_bytes: int = Field(
        1_000_000,
        ge=1_000,
        le=10_000_000,
        description="A longer text (UTF-8 bytes) is rejected; cut it into passages instead.",
    )
    unit_passages: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Passages in one unit of work: what is committed, retried and held in memory at once. "
        "Default: 4096, and fewer for a small input.",
    )


class AutoSettings(Settings):
    """What index_kind auto goes by."""

    index_memory_gib: float = Field(
        8.0,
        gt=0,
        le=1_000_000,
        description="Memory for the vector indexes of all shards together, in GiB, which index_kind auto stays within.",
    )


class GateSettings(Settings):
    """What a version has to reach before it is made current."""

    gate: list[GateDemand] | None = Field(
        None,
        description="Demands on a new version, without which it is published but not made current (exit code 3): "
        "recall=0.95 of the vector index; with judged queries, qrels=DIR in BEIR layout or sample_judgements, "
        "min_ndcg=0.5 and max_drop=0.01 against the active version.",
    )
    sample_judgements: int = Field(
        0, ge=0, le=100_000, description="Make so many known-item queries from the corpus for the gate to judge by."
    )


class BuildSettings(
    GateSettings, AutoSettings, SourceSettings, EncoderSettings, IndexSettings, LexicalSettings, LateSettings
):
    """Everything that `python -m jobs.build_index` and `shoal build` take."""

    index: Name = Field(description="Index root to publish to: a local path or a URI such as s3://bucket/prefix.")
    shards: int | None = Field(
        None, ge=1, le=100_000, description="Shards of the index. Default: one for every million passages (estimated)."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Embedding workers. Default: one for each GPU, or as many as the cluster's CPUs allow.",
    )
    gpus_per_worker: float | None = Field(
        None, ge=0, le=8, description="GPUs of one embedding worker. Default: 1 if the cluster has GPUs, else 0."
    )
    verify_queries: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Sampled passages for which the index is compared with exact search before publishing.",
    )
    activate: bool = Field(True, description="Make the new version current once it is published.")
    rebuild: bool = Field(False, description="Build again even if this plan has been published already.")
    dry_run: bool = Field(False, description="Print the plan with its memory and time estimate, and stop.")


class FusionSettings(Settings):
    """How a hybrid query becomes one ranking."""

    mode: Literal["auto", "dense", "lexical", "hybrid"] = Field(
        "auto",
        description="How stage one searches when a request names no mode: by vectors, by words or by both; auto is "
        "hybrid where the version has a lexical index, else dense.",
    )
    window: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Candidates that each of the two ways of searching brings into a hybrid answer. Fixed, so that a "
        "longer page continues a shorter one; only a top_k beyond it widens it.",
    )
    fusion: Literal["weighted", "rrf"] = Field(
        "weighted",
        description="How the two rankings are fused: by scores scaled to 0..1 for each query, or by reciprocal ranks.",
    )
    rrf_k: int = Field(60, ge=1, le=100_000, description="The constant of reciprocal rank fusion.")
    lexical_weight: float = Field(
        0.3, ge=0, le=1, description="Share of the words in weighted fusion; vectors have the rest."
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


class TrainSettings(AnalyzerSettings):
    """Everything that `python -m jobs.train_reranker` takes."""

    data: Name = Field(
        description="Judgements: a folder with *.jsonl[.gz] of query, positive and, if there are any, negatives, or a "
        "BEIR folder with qrels/train.tsv."
    )
    output: Name = Field(description="Folder to write the reranker to; it must not exist yet.")
    kind: Literal["late_interaction", "cross_encoder"] = Field(
        "late_interaction", description="What is trained: the token vectors of late interaction, or a cross-encoder."
    )
    encoder: Name = Field(EMBEDDED_ENCODER, description="Encoder of the first stage, which finds the hard negatives.")
    base: Name | None = Field(
        None, description="Model that training starts from: preset, hub name or path. Default: the encoder."
    )
    licence: str | None = Field(None, description="Licence of the data, for the model card.")

    epochs: int = Field(4, ge=1, le=1000, description="Passes over the training queries.")
    max_steps: int | None = Field(None, ge=1, description="End after this many steps, whatever the epochs.")
    batch_queries: int = Field(16, ge=1, le=4096, description="Queries of one step, all workers together.")
    negatives: int = Field(7, ge=1, le=255, description="Negatives that a query is shown in one step.")
    mine_top_k: int = Field(
        30, ge=1, le=1000, description="Best passages of dense and of lexical search that negatives are drawn from."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Peak of the learning rate. Default: 3e-5, or 5e-4 for LoRA."
    )
    temperature: float = Field(
        0.05, gt=0, le=10, description="Late interaction's scores are divided by it before the softmax of the loss."
    )
    max_length: int = Field(
        192, ge=8, le=32768, description="Tokens read of a passage or pair while training; the result reads its own."
    )
    lora_rank: int = Field(0, ge=0, le=1024, description="Rank of LoRA adapters; 0 trains all weights.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout while training; 0 computes fastest on a CPU.")
    batch_tokens: int = Field(
        16384, ge=256, le=1_000_000, description="Tokens whose activations are held at once: bounds memory."
    )

    dev_share: float = Field(
        0.1, ge=0, lt=1, description="Share of the queries held out to measure progress, unless qrels/dev.tsv exists."
    )
    dev_queries: int = Field(64, ge=1, le=100_000, description="Held-out queries that are measured at most.")
    dev_top_k: int = Field(20, ge=1, le=1000, description="First-stage passages that are reranked for each of them.")
    evaluations: int = Field(8, ge=1, le=1000, description="How often that is done; the best weights are kept.")
    checkpoint_s: float = Field(60.0, ge=0, le=86_400, description="Seconds between checkpoints.")

    seed: int = Field(0, ge=0, le=2**31, description="Decides held-out queries, order, negatives and fresh weights.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the passes; weights stay float32. auto is bfloat16 where there is hardware for it.",
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="CPU threads of one worker. Default: its share of them."
    )
    workers: int = Field(1, ge=1, le=1000, description="Workers that share the queries of every step, on Ray.")
    gpus_per_worker: float | None = Field(
        None, ge=0, le=8, description="GPUs of one worker. Default: 1 if the cluster has GPUs, else 0."
    )


class ServeSettings(InferenceSettings, TokenCacheSettings, FusionSettings):
    """Everything that `serve.app:build_app`, `python -m serve.run` and `shoal serve` take."""

    index: Name = Field(description="Index root to serve: a local path or a URI.")
    encoder: Name | None = Field(
        None, description="Encoder for queries. Default: the one that the index was built with; another one is refused."
    )
    reranker: Name = Field(
        "late_interaction",
        description="Reranker: late_interaction, overlap, none, a folder that jobs.train_reranker wrote, or a "
        "cross-encoder by preset, hub name or local path.",
    )
    shortlist: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="How many candidates the reranker reads, where the version has token vectors (--late-interaction "
        "stored): the best of top_k by these, and top_n at least. Default: all of top_k.",
    )

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
    health_check_period_s: float = Field(
        1.0, ge=0.1, le=600, description="Seconds between the questions to every replica whether it is alive."
    )
    health_check_timeout_s: float = Field(
        2.0,
        ge=0.1,
        le=600,
        description="Seconds that a replica may take to say so; one that has not three times in a row is replaced.",
    )
    encoder_threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="CPU threads of one query encoder. Default: the cores, shared by the encoders; 8 at most.",
    )
    query_cache: int = Field(
        10_000, ge=0, le=10_000_000, description="Queries whose vectors each query encoder remembers; 0 remembers none."
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
        0, ge=0, le=8, description="GPUs that Ray reserves for one encoder or reranker replica."
    )

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
    max_body_bytes: int = Field(1_000_000, ge=1_000, le=100_000_000, description="Largest request body accepted.")
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
    max_requests: int = Field(
        48, ge=1, le=100_000, description="Searches that one ingress replica works on at once; more get 429."
    )
    max_waiting: int = Field(
        256, ge=1, le=100_000, description="Queries that may wait in one ingress replica; more get 429."
    )
    max_batch: int = Field(32, ge=1, le=1024, description="Queries that one fan-out serves together.")
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

    api_keys_file: str | None = Field(
        None,
        description="File of API keys, hashed, one a line as `shoal keys` prints it; it is read again when it changes. "
        "The variable SHOAL_API_KEYS may hold such lines too. Without either nobody is asked for a key.",
    )
    anonymous: bool = Field(
        False,
        description="Serve beyond loopback although there is no API key: whoever reaches the port may do everything.",
    )

    allowed_hosts: list[Name] | None = Field(
        None,
        description="Names by which the server may be asked, beside its addresses. Default: with API keys any, without "
        "them this machine's own and the one it listens on.",
    )
    cors_origin: list[Origin] | None = Field(
        None, description="Pages of other sites that may ask this server, such as https://search.example.org."
    )

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

    cache_dir: str = Field("~/.cache/shoal/shards", description="Where retrievers keep shards of a remote index root.")
    cache_bytes: int = Field(
        100 * 2**30, ge=0, description="Size bound of that folder; least recently used shards go first."
    )
    watch_s: float = Field(
        5.0, ge=0.1, le=3600, description="Seconds between looks at CURRENT, so that a published version goes live."
    )


class RunSettings(ServeSettings):
    """What `python -m serve.run` and `shoal serve` take on top: how the application is run on this machine."""

    host: str = Field("127.0.0.1", description="Address to listen on; nothing listens beyond loopback unless asked.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP endpoint.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the metrics for Prometheus, on loopback. Default: any free one."
    )
    proxy: Literal["haproxy", "ray"] = Field("haproxy", description="HTTP proxy: the HAProxy profile or Ray's own.")
    max_connections_per_source: int = Field(
        256,
        ge=1,
        le=20_000,
        description="Connections that one address may hold open; beyond them it is refused. This machine and "
        "trusted_proxies have no such limit.",
    )
    trusted_proxies: list[Network] | None = Field(
        None, description="Addresses or networks of proxies in front of this server, such as 10.0.0.0/8."
    )


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
        description="File of the constants of this machine, which --calibrate writes.",
    )
    encoder: Name = Field(EMBEDDED_ENCODER, description="Encoder that --calibrate measures.")
    reranker: Name = Field("late_interaction", description="Reranker that --calibrate measures.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models compute that are measured.")


class EvaluateSettings(Settings):
    """What `shoal eval` and `python -m jobs.evaluate` take."""

    dataset: Name = Field(description="Folder in BEIR layout: queries.jsonl and qrels/SPLIT.tsv, plain or gzipped.")
    split: Name = Field("test", description="Judgements to measure with: qrels/SPLIT.tsv.")
    index: Name | None = Field(None, description="Index root to evaluate here, without a server.")
    url: Name | None = Field(None, description="Server to evaluate.")
    modes: list[Literal["dense", "lexical", "hybrid"]] | None = Field(
        None, description="How stage one searches. Default: every way that the index has."
    )
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
