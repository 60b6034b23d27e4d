"""What training a reranker takes."""

from typing import Literal

from pydantic import Field

from shoal.settings.base import Name
from shoal.settings.index import AnalyzerSettings
from shoal.settings.inference import EMBEDDED_ENCODER


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
