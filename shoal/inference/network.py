"""What a library that computes models offers: tokens out of texts, and vectors or scores out of tokens."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from shoal.errors import InvalidArgument
from shoal.inference.placement import Placement
from shoal.records import FloatArray, RowArray, Span

Kind = Literal["encoder", "cross_encoder"]
Task = Literal["query", "document"]
Input = str | tuple[str, str]
"""A text, or a pair of texts for a cross-encoder."""


class NotConvertible(Exception):
    """OpenVINO cannot compute this model, torch may. Says why, and what to set."""


class ModelFacts(BaseModel):
    """What a model says of itself, by its own configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int
    """Dimensions of a vector, or scores of a pair."""
    pooling: str
    """What follows the transformer, such as `mean` or `mean+dense`; normalising is left out, it is always done."""
    query_prompt: str
    """Set before queries, or before the first text of a pair."""
    passage_prompt: str
    own_length: int | None
    """Tokens of a text that the model reads unless told otherwise, if it says so."""
    positions: int
    """Tokens of a text that it can read."""
    special: tuple[int, ...]
    """Tokens that frame a text, such as [CLS]."""

    def max_length(self, asked: int | None) -> int:
        """Return how many tokens of a text are read when so many are asked for; None keeps the model's own limit.

        Raises InvalidArgument when the model has no positions for so many.
        """
        if asked is not None and asked > self.positions:
            raise InvalidArgument(
                f"max_length={asked}, but the model reads at most {self.positions} tokens", param="max_length"
            )
        return min(asked or self.own_length or self.positions, self.positions)


class Output(NamedTuple):
    """What a model makes of b inputs.

    result: float32, L2-normalised vectors (b, dim) of an encoder, scores (b,) of a cross-encoder.
    tokens: float (b, t, d), the L2-normalised vectors of the tokens, if they were asked for and the model has any.
    own: bool (b, t), which tokens are those of the texts themselves; prompt and special tokens only for want of others.
    """

    result: FloatArray
    tokens: NDArray[np.floating] | None = None
    own: NDArray[np.bool_] | None = None


class Tokenised(Protocol):
    """Inputs as tokens, not padded yet."""

    @property
    def ids(self) -> list[list[int]] | None:
        """Tokens of each input; None when the model takes all inputs as they are, without padding."""
        ...

    @property
    def prompt_length(self) -> int:
        """How many tokens come before each text."""
        ...

    def pick(self, parts: "Sequence[tuple[int, RowArray]]") -> "Tokenised":
        """Make inputs of some tokens of these: the row of each, and the positions of its tokens there, int64 (t,)."""
        ...

    def batch(self, rows: RowArray) -> Any:
        """Pad some of the inputs to one length, for `Network.run`."""
        ...


class Network(Protocol):
    """A model on the library that computes it."""

    placement: Placement
    facts: ModelFacts
    max_length: int
    """Tokens read of a text or pair, special tokens included."""
    reads_windows: bool
    """Whether parts of a text may be read instead: not by a model of another form, such as the turns of a talk."""

    def tokenise(self, inputs: Sequence[Input], prompt: str, task: Task | None, most: int | None = None) -> Tokenised:
        """Turn texts or pairs into tokens, the prompt before each.

        Args:
            most: Tokens of each that are kept; `max_length` if left out.
        """
        ...

    def count_tokens(self, inputs: Sequence[Input], prompt: str) -> list[int]:
        """Count the tokens of whole texts or pairs, prompt and special tokens included, also those beyond `max_length`.

        0 where the model reads texts of any length. Not while `tokenise` runs.
        """
        ...

    def locate_tokens(self, texts: Sequence[str], prompt: str) -> list[RowArray] | None:
        """Return where the tokens that `Output.own` marks lie in each text, int64 (t, 2), in characters.


        What lies in the prompt has negative ones. None where the tokenizer cannot tell. Not while `tokenise` runs.
        """
        ...

    def run(self, batch: Any, threads: int, *, tokens: bool = False) -> Output:
        """Compute one batch on so many CPU threads; safe for as many calls side by side as the model has threads.

        Args:
            tokens: Whether the vectors of the tokens are wanted.
        """
        ...


def prompted(inputs: Sequence[Input], prompt: str) -> list[Input]:
    """Set a prompt before texts, or before the first text of pairs."""
    return [(prompt + text[0], text[1]) if isinstance(text, tuple) else prompt + text for text in inputs]


def own_tokens(
    ids: NDArray[np.integer], mask: NDArray[np.integer], special: Sequence[int], prompt_length: int
) -> NDArray[np.bool_]:
    """Mark the tokens of the texts themselves, bool (b, t), as `Output.own` says.

    Args:
        ids, mask: The tokens, int (b, t), and 1 where there is one.
        prompt_length: How many come before the text.
    """
    read = mask.astype(bool)
    own: NDArray[np.bool_] = read & ~np.isin(ids, special) & (read.cumsum(axis=1) > prompt_length)
    return np.where(own.any(axis=1, keepdims=True), own, read)


def shortened(vectors: FloatArray, dim: int) -> FloatArray:
    """Return the first dimensions of vectors (n, d >= dim), brought to length 1 anew; all of them as they are."""
    return vectors if vectors.shape[1] == dim else unit(np.ascontiguousarray(vectors[:, :dim]))


def own_offsets(
    ids: Sequence[int], offsets: Sequence[Span], special: Sequence[int], prompt: str, prompt_length: int
) -> RowArray:
    """Return where the own tokens of one text lie in it, int64 (t, 2), in characters; see `own_tokens`.

    Args:
        ids: All its tokens, those of the prompt before the text too.
        offsets: Where each lies in the prompt and the text together.
        special: Tokens that frame a text.
        prompt: What stands before the text.
        prompt_length: How many tokens come before the text.
    """
    row = np.array([ids], np.int64)
    own = own_tokens(row, np.ones_like(row), special, prompt_length)[0]
    located: RowArray = np.array(offsets, np.int64).reshape(-1, 2)[own] - len(prompt)
    return located


def unit(vectors: FloatArray) -> FloatArray:
    """Normalise the last axis to length 1; a vector of length 0 stays as it is."""
    norms = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    normalised: FloatArray = vectors / np.maximum(norms, np.float32(1e-12))
    return normalised
