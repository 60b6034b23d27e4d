"""Encoders turn texts into vectors. One backend is one file here; the file name is the value of the `backend` setting.

A backend module defines `load(model: str, settings: EncoderSettings) -> Encoder`. A module whose name begins with an
underscore is shared by backends and is none itself.
"""

import importlib
import logging
import pkgutil
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shoal.encoders import _absent
from shoal.errors import InvalidArgument
from shoal.fingerprint import instructed
from shoal.inference.names import is_remote
from shoal.records import FloatArray, RowArray, TermWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.fingerprint import Fingerprint
    from shoal.settings import EncoderSettings

_log = logging.getLogger(__name__)
_WEIGHTLESS = "hashing"
"""The encoder that needs no weights and is chosen by its name."""


class Encoder(Protocol):
    """A bi-encoder. Not safe for concurrent calls; every owner has its own."""

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        ...

    def encode_queries(self, texts: "Sequence[str]") -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; the query prompt is applied here."""
        ...

    def encode_passages(self, texts: "Sequence[str]") -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; the passage prompt is applied here."""
        ...

    def fingerprint(self) -> "Fingerprint":
        """Name everything that decides which vector a text gets."""
        ...


class TextVectors(NamedTuple):
    """What an encoder makes of one text in one forward pass.

    vector: float32 (dim,), the L2-normalised vector that `encode_queries` or `encode_passages` gives for it.
    tokens: float (t, d), the L2-normalised vectors of its t >= 1 tokens, without prompt and special tokens unless there
    are no others; d is the model's hidden size.
    """

    vector: FloatArray
    tokens: NDArray[np.floating]


@runtime_checkable
class InstructedEncoder(Encoder, Protocol):
    """An encoder that reads before queries what they look for: the `query_prompt` of its fingerprint says so."""

    def encode_queries(self, texts: "Sequence[str]", instruction: str | None = None) -> FloatArray:
        """As `Encoder.encode_queries`; instruction: stands in the place of the one in the fingerprint."""
        ...

    def encode_query_tokens(self, texts: "Sequence[str]", instruction: str | None = None) -> list[TextVectors]:
        """As `TokenEncoder.encode_query_tokens`, with such an instruction."""
        ...


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that also gives the vectors of the tokens, which late interaction compares."""

    def encode_query_tokens(self, texts: "Sequence[str]") -> list[TextVectors]:
        """Encode queries, in input order."""
        ...

    def encode_passage_tokens(self, texts: "Sequence[str]") -> list[TextVectors]:
        """Encode passages, in input order."""
        ...


@runtime_checkable
class TokenLocator(TokenEncoder, Protocol):
    """An encoder that also tells where in a passage the tokens lie whose vectors it gives."""

    def locate_passage_tokens(self, texts: "Sequence[str]") -> "list[RowArray] | None":
        """Return for each passage, int64 (t, 2), where its tokens begin and end, in characters.

        The tokens are those of `encode_passage_tokens`, in their order. No network is computed for it. None where the
        tokenizer cannot tell.
        """
        ...


@runtime_checkable
class TermEncoder(Encoder, Protocol):
    """An encoder that has a learned sparse model beside it, which its fingerprint names."""

    def encode_query_terms(self, texts: "Sequence[str]") -> "list[TermWeights]":
        """Return the terms of queries, in input order."""
        ...

    def encode_passage_terms(self, texts: "Sequence[str]") -> "list[TermWeights]":
        """Return the terms of passages, in input order."""
        ...


@runtime_checkable
class TokenCounter(Encoder, Protocol):
    """An encoder that also tells how long texts are, so that it can be said that one was cut."""

    def count_query_tokens(self, texts: "Sequence[str]") -> list[int]:
        """Count the tokens of whole queries, prompt and special tokens included, however many of them are read.

        `Fingerprint.max_length` counts alike. 0 where the model reads texts of any length.
        """
        ...

    def count_passage_tokens(self, texts: "Sequence[str]") -> list[int]:
        """Count the tokens of whole passages, as `count_query_tokens` does those of queries.

        `Fingerprint.passage_length` are read.
        """
        ...


@runtime_checkable
class LengthCounter(Protocol):
    """An encoder that also tells how many texts took all the tokens that it reads."""

    @property
    def full_texts(self) -> int:
        """Texts that it has encoded so far, each as long as it reads or longer; what exceeds is not read.

        Of a passage that is `Fingerprint.passage_length`."""
        ...


def backends() -> list[str]:
    """Names that the setting `backend` takes for encoders besides auto: the files of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def is_weightless(model: str) -> bool:
    """Whether the setting `encoder` needs no weights here: a file of this folder, such as `hashing:32`, none, or an
    endpoint."""
    return is_remote(model) or _absent.is_absent(model) or model.partition(":")[0] in backends()


def check_dimensions(settings: "EncoderSettings", fingerprint: "Fingerprint") -> None:
    """Raise InvalidArgument when an encoder does not give vectors of so many dimensions as the settings ask for."""
    if settings.dimensions not in (None, fingerprint.dim):
        raise InvalidArgument(
            f"dimensions={settings.dimensions}, but the encoder {fingerprint.model} gives {fingerprint.dim}: ask for "
            "fewer of a model that was trained for it, or leave dimensions out",
            param="dimensions",
        )


def check_passage_tokens(settings: "EncoderSettings", fingerprint: "Fingerprint") -> None:
    """Raise InvalidArgument when an encoder cannot read so many tokens of a passage as the settings ask it to."""
    if "passage_tokens" in settings.model_fields_set and settings.passage_tokens > fingerprint.passage_length:
        raise InvalidArgument(
            f"passage_tokens={settings.passage_tokens}, but the encoder {fingerprint.model} does not read longer texts "
            f"than {fingerprint.max_length} tokens in windows; leave passage_tokens out",
            param="passage_tokens",
        )


def check_instruction(settings: "EncoderSettings", fingerprint: "Fingerprint") -> None:
    """Raise InvalidArgument when an encoder does not read the instruction that the settings give it."""
    if settings.query_instruction is not None:
        instructed(fingerprint.query_prompt, settings.query_instruction)


def load_encoder(settings: "EncoderSettings") -> Encoder:
    """Load the encoder that the settings name, with the models beside it that they name.

    With a sparse model it is a `TermEncoder`, with a multi-vector model it gives that one's token vectors. Raises
    ModelUnavailable when a model cannot be loaded, InvalidArgument when the backend does not exist.
    """
    encoder = _load_dense(settings)
    if settings.late_encoder is not None:
        module = importlib.import_module(f"{__name__}._multi_vector")
        model, fingerprint = module.load(settings.late_encoder, settings)
        _log.info("late encoder %s, %d threads", fingerprint, settings.threads)
        encoder = module.beside(encoder, model, fingerprint)
    if settings.sparse_encoder is None:
        return encoder
    module = importlib.import_module(f"{__name__}._sparse")
    sparse = module.load(settings.sparse_encoder, settings)
    _log.info("sparse encoder %s, %d threads", sparse.fingerprint, settings.threads)
    both: TermEncoder = module.beside(encoder, sparse)
    return both


def _load_dense(settings: "EncoderSettings") -> Encoder:
    """Load the encoder alone."""
    backend = settings.backend
    if backend not in ("auto", *backends()):
        raise InvalidArgument(
            f"backend={backend!r} does not exist: use auto or one of {', '.join(backends())}", param="backend"
        )
    if _absent.is_absent(settings.encoder):
        return _absent.load(settings.encoder)
    if is_remote(settings.encoder):
        from shoal.encoders import _remote

        return _remote.load(settings.encoder, settings)
    if settings.encoder.split(":")[0] == _WEIGHTLESS:
        backend = _WEIGHTLESS
    elif backend == "auto":
        from shoal.inference.placement import place

        backend = place(settings).backend
    encoder: Encoder = importlib.import_module(f"{__name__}.{backend}").load(settings.encoder, settings)
    _log.info("encoder %s on backend %s, %d threads", encoder.fingerprint(), backend, settings.threads)
    return encoder
