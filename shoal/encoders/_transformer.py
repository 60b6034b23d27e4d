"""Any sentence-transformers bi-encoder, on whatever backend computes it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from shoal import inference, models
from shoal.encoders import TextVectors
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.fingerprint import Fingerprint
from shoal.inference import Runner
from shoal.records import FloatArray, RowArray
from shoal.settings import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TransformerEncoder:
    """A SentenceTransformer behind the Encoder protocol: same vectors as its own encode_query and encode_document."""

    def __init__(self, model: "SentenceTransformer", runner: Runner, fingerprint: Fingerprint) -> None:
        self._runner = runner
        self._fingerprint = fingerprint
        special = (getattr(model.tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos"))
        self._special = [token for token in special if token is not None]

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._fingerprint.dim

    def fingerprint(self) -> Fingerprint:
        """Name everything that decides which vector a text gets."""
        return self._fingerprint

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._vectors(texts, "query")

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._vectors(texts, "document")

    def encode_query_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode queries and their tokens, in input order."""
        return self._tokens(texts, "query")

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their tokens, in input order."""
        return self._tokens(texts, "document")

    def _vectors(self, texts: Sequence[str], task: str) -> FloatArray:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for rows, features in self._forward(texts, task):
            vectors[rows] = _unit(features["sentence_embedding"])
        return vectors

    def _tokens(self, texts: Sequence[str], task: str) -> list[TextVectors]:
        encoded: dict[int, TextVectors] = {}
        for rows, features in self._forward(texts, task):
            if "token_embeddings" not in features:
                raise InvalidArgument(f"the encoder {self._fingerprint.model} has no token vectors", param="encoder")
            vectors, tokens = _unit(features["sentence_embedding"]), _unit(features["token_embeddings"])
            own = self._own_tokens(features)
            for position, row in enumerate(rows.tolist()):
                encoded[row] = TextVectors(vectors[position], tokens[position, own[position]])
        return [encoded[row] for row in range(len(texts))]

    def _own_tokens(self, features: dict[str, Any]) -> NDArray[np.bool_]:
        """Mark the tokens of the texts themselves, bool (b, t); prompt and special tokens only for want of others."""
        read = features["attention_mask"].cpu().numpy().astype(bool)
        special = np.isin(features["input_ids"].cpu().numpy(), self._special)
        own: NDArray[np.bool_] = read & ~special & (read.cumsum(axis=1) > features.get("prompt_length", 0))
        return np.where(own.any(axis=1, keepdims=True), own, read)

    def _forward(self, texts: Sequence[str], task: str) -> Iterator[tuple[RowArray, dict[str, Any]]]:
        prompt = self._fingerprint.query_prompt if task == "query" else self._fingerprint.passage_prompt
        return self._runner.forward(texts, prompt=prompt or None, task=task)


def load_transformer(model: str, settings: EncoderSettings) -> TransformerEncoder:
    """Load a model by preset, local path or hub name onto the backend that the settings name.

    Raises ModelUnavailable when it is not to be had or no bi-encoder, InvalidArgument for a backend, device, precision
    or length that it or this machine lacks.
    """
    location = models.resolve(model)
    folder = location.fetch()
    weights = location.digest(folder)
    if models.architecture(folder).endswith("ForSequenceClassification"):
        raise ModelUnavailable(f"{model!r} is a cross-encoder: set it as the reranker, and a bi-encoder as the encoder")
    placement = inference.place(settings)
    with inference.loading(folder, settings.threads):
        from sentence_transformers import SentenceTransformer

        loaded = SentenceTransformer(
            str(folder),
            device=placement.device,
            local_files_only=True,
            model_kwargs={"dtype": placement.torch_dtype},
        )
    pooling, dim = _pooling(loaded), int(loaded.get_embedding_dimension() or 0)
    max_length = inference.limit_length(loaded, settings.max_length)
    runner = Runner(loaded, weights, placement, settings.threads, settings)
    fingerprint = Fingerprint(
        model=location.name,
        weights=weights,
        dim=dim,
        pooling=pooling,
        query_prompt=_own_prompt(loaded, "query") or location.query_prompt,
        passage_prompt=_own_prompt(loaded, "document", "passage", "corpus") or location.passage_prompt,
        max_length=max_length,
        dtype=runner.placement.dtype,
    )
    return TransformerEncoder(loaded, runner, fingerprint)


def _own_prompt(model: "SentenceTransformer", *names: str) -> str:
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def _pooling(model: "SentenceTransformer") -> str:
    """Name what follows the transformer, such as `mean` or `mean+dense`; normalising is left out, it is always done."""
    parts = []
    for module in list(model)[1:]:
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            parts.append(mode if isinstance(mode, str) else "-".join(mode))
        elif type(module).__name__ != "Normalize":
            parts.append(type(module).__name__.lower())
    return "+".join(parts)


def _unit(vectors: torch.Tensor) -> FloatArray:
    unit: FloatArray = normalize(vectors.float(), dim=-1).cpu().numpy()
    return unit
