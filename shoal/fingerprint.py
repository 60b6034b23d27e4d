"""What decides which vector a text gets: the contract between an index and its query encoder."""

import hashlib
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shoal.errors import InvalidArgument

_INSTRUCTED = re.compile(r"(Instruct: ?|task: ?)(.+?)(\n ?Query: ?| \| query: ?)", re.DOTALL)
"""Prompts for queries that say what is looked for, as Qwen3-Embedding, E5 of the instruct kind and EmbeddingGemma have
them: what stands before the instruction, it, and what stands behind."""


def instruction_of(prompt: str) -> str | None:
    """The instruction in a prompt for queries; None for a prompt that holds none."""
    parts = _INSTRUCTED.fullmatch(prompt)
    return parts[2] if parts else None


def instructed(prompt: str, instruction: str) -> str:
    """Put another instruction into a prompt for queries.

    Raises InvalidArgument when it holds none, or when the instruction would end it early.
    """
    parts = _INSTRUCTED.fullmatch(prompt)
    if parts is None:
        raise InvalidArgument(
            f"the encoder takes no instruction: before queries it reads {prompt!r}"
            if prompt
            else "the encoder takes no instruction: it reads queries as they are",
            param="instruction",
        )
    if (end := parts[3].strip()) in instruction:
        raise InvalidArgument(
            f"an instruction does not hold {end!r}, which ends it for the encoder", param="instruction"
        )
    return f"{parts[1]}{instruction}{parts[3]}"


class SparseFingerprint(BaseModel):
    """The identity of a learned sparse model; everything but `model` decides which weights a text gets."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())

    model: str
    """Name or path that it was asked for by."""
    weights: str
    """`sha256:` and the hex digest of its weights."""
    dimensions: int
    """Terms that it knows, mostly the vocabulary of its tokenizer."""
    modules: str
    """What computes queries and passages, in words, such as `mlmtransformer+spladepooling(max,relu)`."""
    query_prompt: str
    passage_prompt: str
    max_length: int
    """Tokens read of a text, special tokens included."""
    max_terms: int | None
    """Terms of a text at most, the heaviest; None for all."""


class LateFingerprint(BaseModel):
    """The identity of a multi-vector model; everything but `model` decides which vectors the tokens of a text get."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())

    model: str
    """Name or path that it was asked for by."""
    weights: str
    """`sha256:` and the hex digest of its weights."""
    dimensions: int
    """Dimensions of the vector of a token."""
    modules: str
    """What computes it, in words, with the tokens of passages that do not count, such as
    `transformer+dense(Identity())+multivectormask(! ? .,document)+normalize`."""
    query_prompt: str
    passage_prompt: str
    query_length: int
    """Tokens read of a query, special tokens included."""
    passage_length: int
    """Tokens read of a passage, special tokens included."""
    expansion: str
    """How queries are filled up with tokens that count too, as JSON; empty if they are not."""


_UNCOMPARED: dict[str, bool | set[str]] = {"model": True, "dtype": True, "sparse": {"model"}, "late": {"model"}}
"""What two encoders may differ in that match: where they lie, and in which precision they compute."""


class Fingerprint(BaseModel):
    """The identity of an encoder.

    Two encoders match when everything but `model` (a name or path, which may differ between machines) and `dtype`
    (in float16, bfloat16 and float32 vectors are the same to two or three decimals) is equal: an index built on GPUs
    can be queried from CPUs.
    """

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, protected_namespaces=())

    model: str
    """Name or path the encoder was asked for by."""
    weights: str
    """`sha256:` and the hex digest of the weights, or a version tag of a weightless encoder."""
    dim: int
    """Dimensions of a vector: the first so many where the model gives more, brought to length 1 after cutting."""
    pooling: str
    query_prompt: str
    passage_prompt: str
    max_length: int
    """Tokens read of a text, special tokens included."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    passage_tokens: int = Field(0, exclude_if=lambda tokens: tokens == 0)
    """Tokens read of a passage that has more than `max_length`, in windows (`shoal.inference.windows`), whose vectors
    are averaged. 0, and left out in JSON: none, and of a longer passage the beginning is read. Vectors of tokens are
    those of the first `max_length` either way."""

    sparse: SparseFingerprint | None = Field(None, exclude_if=lambda sparse: sparse is None)
    """The learned sparse model beside it; None, and left out of what is written, where there is none."""

    late: LateFingerprint | None = Field(None, exclude_if=lambda late: late is None)
    """The multi-vector model beside it that gives the vectors of tokens in its place; None, and left out of what is
    written, where there is none."""

    @property
    def passage_length(self) -> int:
        """Tokens read of a passage, special tokens included."""
        return max(self.max_length, self.passage_tokens)

    @property
    def token_length(self) -> int:
        """Tokens of a passage that get a vector each, at most, special tokens included."""
        return self.max_length if self.late is None else self.late.passage_length

    @property
    def options(self) -> dict[str, Any]:
        """What the settings of an encoder have to say for it to become this one, its name included."""
        options = {
            "encoder": self.model,
            "max_length": self.max_length,
            "dimensions": self.dim,
            "passage_tokens": self.passage_tokens,
            "sparse_encoder": None if self.sparse is None else self.sparse.model,
            "late_encoder": None if self.late is None else self.late.model,
        }
        instruction = instruction_of(self.query_prompt)
        return options if instruction is None else {**options, "query_instruction": instruction}

    @property
    def digest(self) -> str:
        """SHA-256 over what has to be equal for two encoders to match: theirs is equal then."""
        said = self.model_dump_json(exclude=_UNCOMPARED)
        return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"

    def matches(self, other: "Fingerprint") -> bool:
        """Whether vectors of the two encoders may be compared."""
        return self.model_dump(exclude=_UNCOMPARED) == other.model_dump(exclude=_UNCOMPARED)

    def has_tokens_of(self, other: "Fingerprint") -> bool:
        """Whether the token vectors of two encoders that match otherwise may be compared."""
        own, theirs = (None if late is None else late.model_dump(exclude={"model"}) for late in (self.late, other.late))
        return own == theirs

    def __str__(self) -> str:
        prompts = (
            f" prompts={self.query_prompt!r}/{self.passage_prompt!r}"
            if self.query_prompt or self.passage_prompt
            else ""
        )
        weights = self.weights if len(self.weights) < 24 else self.weights[:19]
        windows = f" passage_tokens={self.passage_tokens}" if self.passage_tokens else ""
        read = f"max_length={self.max_length}{windows}"
        sparse = "" if self.sparse is None else f" sparse={self.sparse.model}/{self.sparse.weights[:19]}"
        late = "" if self.late is None else f" late={self.late.model}/{self.late.weights[:19]}"
        return f"{self.model} [{weights} dim={self.dim} pooling={self.pooling} {read}{prompts}{sparse}{late}]"
