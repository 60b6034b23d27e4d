"""How models compute, and which ones: encoders and rerankers."""

from typing import Literal

from pydantic import Field

from shoal.settings.base import Name, Settings

EMBEDDED_ENCODER = "all-MiniLM-L6-v2"
"""Encoder that an index is built with unless another one is named; its weights come with Shoal's extras."""

PASSAGE_TOKENS = 2048
"""Tokens read of a longer passage in windows, unless set otherwise: more gave no more where texts are longer."""


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
        description="Precision of inference; auto is float16 on a GPU (bfloat16 for models that were trained in it), "
        "bfloat16 on a CPU that has it, else float32. "
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


class VectorSettings(Settings):
    """What vectors an encoder makes."""

    dimensions: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Dimensions of a vector: the first of the encoder's, brought to length 1 anew, for models "
        "that were trained for it (Matryoshka). Default: all.",
    )
    passage_tokens: int = Field(
        PASSAGE_TOKENS,
        ge=0,
        le=32_768,
        description="Tokens read of a passage that is longer than the encoder reads at once: in windows that overlap, "
        "each behind the beginning of the text, whose vectors are averaged. 0: only the beginning is read. A build "
        "that names none reads as the current version was read, unless it embeds everything.",
    )
    query_instruction: Name | None = Field(
        None,
        max_length=4096,
        description="What queries look for, in words, in place of the model's own: for encoders that read an "
        "instruction before queries, such as Qwen3-Embedding.",
    )


class TokenVectorSettings(Settings):
    """What gives the vectors of tokens that late interaction compares."""

    help_panel = "Late"

    late_encoder: Name | None = Field(
        None,
        description="Multi-vector model (ColBERT, PyLate and others that sentence-transformers loads as a "
        "MultiVectorEncoder) whose token vectors are stored and compared: a hub name or local path. Default: those of "
        "the encoder. A build that names none keeps that of the current version, unless it embeds everything.",
    )


class EncoderSettings(VectorSettings, TokenVectorSettings, InferenceSettings):
    """Which bi-encoder, and how it computes."""

    encoder: Name = Field(
        EMBEDDED_ENCODER,
        description="Encoder: a preset, a hub name, a local path, the address of an endpoint such as "
        "http://host/v1/embeddings, or `hashing` (weightless, for trials).",
    )
    max_length: int | None = Field(
        None, ge=8, le=32768, description="Tokens read of a text; the model's own limit if unset."
    )
    sparse_encoder: Name | None = Field(
        None,
        description="Learned sparse model (SPLADE and others that sentence-transformers loads as a SparseEncoder): a "
        "hub name or local path. With it passages are also found by the terms that it gives them, in the modes sparse "
        "and hybrid; such an index takes no writes while it is served. Default: none.",
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one worker or replica.")


class TokenCacheSettings(Settings):
    """What late interaction remembers."""

    token_cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Size bound of the token vectors that late interaction keeps of passages it read; 0 keeps none.",
    )


class RerankerSettings(VectorSettings, TokenVectorSettings, InferenceSettings, TokenCacheSettings):
    """Which reranker, and how it computes."""

    reranker: Name = Field(
        "late_interaction",
        description="Reranker: `late_interaction` (the encoder's own token vectors, no further weights), `overlap` "
        "(weightless, for trials), a folder of jobs.train_reranker, or a cross-encoder by preset, hub name or path, or "
        "the address of an endpoint such as http://host/v1/rerank.",
    )
    # Late interaction reads the passages with the encoder of the index.
    encoder: Name = Field(EMBEDDED_ENCODER, description="Encoder whose token vectors late interaction uses.")
    max_length: int | None = Field(
        None, ge=8, le=32768, description="Tokens read of a pair; the model's own limit if unset."
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one replica.")
