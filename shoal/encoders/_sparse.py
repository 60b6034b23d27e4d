"""Learned sparse models: SPLADE, and whatever else sentence-transformers loads as a SparseEncoder.

Such a model gives a text weights for terms, mostly those of its tokenizer's vocabulary, of which most are 0. It stands
beside an encoder, whose fingerprint then names it too. It may read queries in another way than passages, even without a
network ("inference-free"): that is up to its modules.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from shoal.encoders import Encoder, TermEncoder
from shoal.encoders._beside import describe_modules, extend, locate, place_on_torch, prompt_of, without_int8
from shoal.errors import ModelUnavailable, ShoalError
from shoal.fingerprint import Fingerprint, SparseFingerprint
from shoal.inference import models
from shoal.records import TermWeights
from shoal.settings import EncoderSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SparseEncoder

_BATCH = 32
"""Texts of one forward pass; those of similar length share one."""


class SparseModel:
    """A learned sparse model on torch. Not safe for concurrent calls.

    Args:
        model: Of sentence-transformers.
        fingerprint: What decides its weights.
        threads: CPU threads.
    """

    def __init__(self, model: "SparseEncoder", fingerprint: SparseFingerprint, threads: int) -> None:
        self._model = model
        self._threads = threads
        self.fingerprint = fingerprint
        """What decides its weights."""

    def encode(self, texts: Sequence[str], *, are_queries: bool) -> list[TermWeights]:
        """Return the terms of texts, in input order. Raises ShoalError for a weight that is not finite."""
        import torch

        if not texts:
            return []
        torch.set_num_threads(self._threads)  # for each calling thread
        # Half a surrogate pair would make the tokenizer refuse the whole batch.
        read = [text.encode("utf-8", "replace").decode() for text in texts]
        encode = self._model.encode_query if are_queries else self._model.encode_document
        made = encode(read, batch_size=_BATCH, show_progress_bar=False, convert_to_tensor=True, save_to_cpu=True)
        return _rows(cast("torch.Tensor", made), len(texts), self.fingerprint.model)


def _rows(made: "torch.Tensor", count: int, model: str) -> list[TermWeights]:
    """Cut a sparse matrix (count, dimensions) into its rows."""
    whole = made.coalesce()
    rows, terms = whole.indices().numpy()
    weights = whole.values().float().numpy()
    if not np.isfinite(weights).all():
        raise ShoalError(f"the sparse encoder {model} gave a weight that is not finite; check the model and its dtype")
    kept = np.flatnonzero(weights)
    rows, terms, weights = rows[kept], terms[kept].astype(np.int32), weights[kept]
    borders = np.searchsorted(rows, np.arange(count + 1))
    return [
        TermWeights(terms[start:end].copy(), weights[start:end].copy()) for start, end in pairwise(borders.tolist())
    ]


class _BesideSparse:
    """What `beside` adds to the class of an encoder."""

    _sparse: SparseModel

    def fingerprint(self) -> Fingerprint:
        """Name everything that decides which vector, and which terms, a text gets."""
        own: Fingerprint = super().fingerprint()  # type: ignore[misc]
        return own.model_copy(update={"sparse": self._sparse.fingerprint})

    def encode_query_terms(self, texts: Sequence[str]) -> list[TermWeights]:
        """Return the terms of queries, in input order."""
        return self._sparse.encode(texts, are_queries=True)

    def encode_passage_terms(self, texts: Sequence[str]) -> list[TermWeights]:
        """Return the terms of passages, in input order."""
        return self._sparse.encode(texts, are_queries=False)


def beside(encoder: Encoder, sparse: SparseModel) -> TermEncoder:
    """Return an encoder as one that has a sparse model beside it, and whatever else it could do before."""
    return cast(TermEncoder, extend(encoder, _BesideSparse, _sparse=sparse))


def load(model: str, settings: EncoderSettings) -> SparseModel:
    """Load a model by local path or hub name, on torch.

    Raises ModelUnavailable when it is not to be had or no sparse model, InvalidArgument for a device or precision that
    it or this machine lacks.
    """
    from shoal.inference.torch_network import load_sparse

    location, folder = locate(model, "sparse_encoder")
    if not models.is_sparse(folder):
        raise ModelUnavailable(
            f"{model!r} is no learned sparse model: take one that sentence-transformers loads as a SparseEncoder, or "
            "leave sparse_encoder out"
        )
    loaded = load_sparse(folder, place_on_torch(without_int8(settings), folder), settings.threads)
    fingerprint = SparseFingerprint(
        model=location.name,
        weights=location.digest(folder),
        # Asked of what it makes: many a model does not know it before.
        dimensions=int(loaded.encode_document(["a"], show_progress_bar=False, convert_to_tensor=True)[0].shape[-1]),
        modules=describe_modules(loaded),
        query_prompt=prompt_of(loaded.prompts, "query"),
        passage_prompt=prompt_of(loaded.prompts, "document", "passage", "corpus"),
        max_length=int(loaded.max_seq_length or 0),
        max_terms=loaded.max_active_dims,
    )
    return SparseModel(loaded, fingerprint, settings.threads)
