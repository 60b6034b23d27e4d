"""Multi-vector models: ColBERT, PyLate, and whatever else sentence-transformers loads as a MultiVectorEncoder.

Such a model gives each token of a text a vector, to be compared by late interaction. It has prompts of its own, may
fill queries up with further tokens (query expansion) and leave tokens of passages out (a skip list). It stands beside
an encoder, whose fingerprint then names it too, and gives the vectors of tokens in its place; or it reranks alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shoal.encoders import Encoder, TextVectors, TokenEncoder
from shoal.encoders._absent import is_absent
from shoal.encoders._beside import describe_modules, extend, locate, place_on_torch, prompt_of, without_int8
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.fingerprint import Fingerprint, LateFingerprint
from shoal.inference import models
from shoal.records import FloatArray
from shoal.settings import EncoderSettings, InferenceSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder

_BATCH = 32
"""Texts of one forward pass; those of similar length share one."""
_MOST_LENGTH = 32_768
"""Tokens that count as read of a text where the model says no limit."""


class MultiVectorModel:
    """A multi-vector model on torch. Not safe for concurrent calls. threads: CPU threads."""

    def __init__(self, model: "MultiVectorEncoder", threads: int) -> None:
        self._model = model.eval()
        self._threads = threads

    def encode(self, texts: Sequence[str], *, are_queries: bool) -> list[FloatArray]:
        """Return the vectors of the tokens of texts, float32 (t, d) each with t >= 1, in input order."""
        import torch

        if not texts:
            return []
        torch.set_num_threads(self._threads)  # for each calling thread
        # Half a surrogate pair would make the tokenizer refuse the whole batch.
        read = [text.encode("utf-8", "replace").decode() for text in texts]
        encode = self._model.encode_query if are_queries else self._model.encode_document
        return [_tokens(made) for made in encode(read, batch_size=_BATCH, show_progress_bar=False)]


def _tokens(made: "torch.Tensor") -> FloatArray:
    tokens: FloatArray = made.float().cpu().numpy()
    # A passage of nothing but tokens that do not count is like none.
    return tokens if len(tokens) else np.zeros((1, tokens.shape[-1]), np.float32)


class _BesideTokens:
    """What `beside` adds to the class of an encoder."""

    _late: MultiVectorModel
    _late_fingerprint: LateFingerprint

    def fingerprint(self) -> Fingerprint:
        """Name everything that decides which vectors a text and its tokens get."""
        own: Fingerprint = super().fingerprint()  # type: ignore[misc]
        return own.model_copy(update={"late": self._late_fingerprint})

    def encode_query_tokens(self, texts: Sequence[str], instruction: str | None = None) -> list[TextVectors]:
        """Encode queries, in input order; the multi-vector model reads no instruction."""
        options = {} if instruction is None else {"instruction": instruction}
        vectors = cast(Any, self).encode_queries(texts, **options)
        return list(map(TextVectors, vectors, self._late.encode(texts, are_queries=True)))

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages, in input order."""
        vectors = cast(Any, self).encode_passages(texts)
        return list(map(TextVectors, vectors, self._late.encode(texts, are_queries=False)))

    def locate_passage_tokens(self, texts: Sequence[str]) -> None:
        """Return None: which tokens of a passage got a vector is not known here."""


def beside(encoder: Encoder, model: MultiVectorModel, fingerprint: LateFingerprint) -> TokenEncoder:
    """Return an encoder whose token vectors are those of a multi-vector model, and that is otherwise as before."""
    return cast(TokenEncoder, extend(encoder, _BesideTokens, _late=model, _late_fingerprint=fingerprint))


def load(model: str, settings: EncoderSettings) -> tuple[MultiVectorModel, LateFingerprint]:
    """Load a model by local path or hub name, to stand beside an encoder, and tell what it is.

    Raises ModelUnavailable when it is not to be had or no multi-vector model, InvalidArgument for a device or precision
    that it or this machine lacks, and where there is no encoder.
    """
    if is_absent(settings.encoder):
        raise InvalidArgument(
            "late_encoder stands beside an encoder, and this index has none; leave it out, or name an encoder",
            param="late_encoder",
        )
    location, folder = locate(model, "late_encoder")
    if not models.is_multi_vector(folder):
        raise ModelUnavailable(
            f"{model!r} is no multi-vector model: take one that sentence-transformers loads as a MultiVectorEncoder, "
            "or leave late_encoder out"
        )
    loaded = load_on_torch(folder, without_int8(settings), settings.threads)
    return MultiVectorModel(loaded, settings.threads), _fingerprint(loaded, location.name, location.digest(folder))


def load_on_torch(folder: Path, settings: InferenceSettings, threads: int) -> "MultiVectorEncoder":
    """Load the model in a folder. Raises as `load`."""
    from shoal.inference.torch_network import load_multi_vector

    return load_multi_vector(folder, place_on_torch(settings, folder), threads)


def _fingerprint(loaded: "MultiVectorEncoder", name: str, weights: str) -> LateFingerprint:
    transformer = next((module for module in loaded if hasattr(module, "query_expansion")), None)
    expansion: dict[str, Any] | None = getattr(transformer, "query_expansion", None)
    longest = min(int(loaded.max_seq_length or _MOST_LENGTH), _MOST_LENGTH)
    query_length = getattr(transformer, "query_length", None) or longest
    if expansion is not None and expansion["strategy"] == "fixed":
        query_length = expansion["length"]
    return LateFingerprint(
        model=name,
        weights=weights,
        # Asked of what it makes: not every model says it.
        dimensions=int(loaded.encode_document(["a"], show_progress_bar=False)[0].shape[-1]),
        modules=describe_modules(loaded),
        query_prompt=prompt_of(loaded.prompts, "query"),
        passage_prompt=prompt_of(loaded.prompts, "document", "passage", "corpus"),
        query_length=query_length,
        passage_length=getattr(transformer, "document_length", None) or longest,
        expansion="" if expansion is None else json.dumps(expansion, sort_keys=True),
    )
