"""An encoder that another server computes, asked as OpenAI is: vLLM, text-embeddings-inference or another Shoal."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from shoal.errors import ModelUnavailable, ShoalError
from shoal.fingerprint import Fingerprint
from shoal.inference import models
from shoal.inference.endpoint import Address, Endpoint, readable
from shoal.inference.network import shortened, unit
from shoal.records import FloatArray
from shoal.settings import EncoderSettings
from shoal.system.threads import seconds_left

_TIMEOUT_S = 60.0
"""Seconds that a call waits for its vectors, unless those that it is for have less time."""
_PROBE_S = 10.0
"""Seconds that the endpoint has to say what it is."""
_TEXTS = 32
"""Texts of one request, as many as text-embeddings-inference takes unless told otherwise."""
_LENGTH = 32_768
"""Tokens that count as read of a text unless `max_length` says otherwise: an endpoint does not say."""


class RemoteEncoder:
    """Implements `Encoder` by an endpoint.

    Args:
        endpoint: Computes the vectors.
        model: Its name there.
        typed: Whether it is told by `input_type` what texts are, as another Shoal is.
        prompts: Set before queries and before passages.
        settings: Of the encoder.

    Raises:
        ModelUnavailable: The endpoint is not to be had.
    """

    def __init__(
        self, endpoint: Endpoint, model: str | None, typed: bool, prompts: tuple[str, str], settings: EncoderSettings
    ) -> None:
        self._endpoint, self._model, self._typed = endpoint, model, typed
        try:
            (answer,) = endpoint.ask([self._body(["dimension"], "query")], _PROBE_S)
            self._whole = whole = self._vectors(answer, 1).shape[1]
        except ShoalError as error:
            raise ModelUnavailable(f"the encoder cannot be asked: {error.message}", param="encoder") from error
        name = model or str(answer.get("model") or "")
        dim = min(settings.dimensions or whole, whole)
        self._fingerprint = Fingerprint(
            model=f"{endpoint.address.url}#{name}" if name else endpoint.address.url,
            # Of a model with longer vectors under the same name, the first dimensions would pass for the old ones.
            weights=f"remote:{name}" if dim == whole else f"remote:{name}:{whole}",
            dim=dim,
            # One that is not told what texts are sets other prompts before them, or none.
            pooling="remote" if typed else "remote:untyped",
            query_prompt=prompts[0],
            passage_prompt=prompts[1],
            max_length=settings.max_length or _LENGTH,
            dtype="float32",
        )

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._fingerprint.dim

    def fingerprint(self) -> Fingerprint:
        """Name the model and its dimension, which is all that is known of it."""
        return self._fingerprint

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._encode(texts, self._fingerprint.query_prompt, "query")

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._encode(texts, self._fingerprint.passage_prompt, "passage")

    def _encode(self, texts: Sequence[str], prompt: str, kind: Literal["query", "passage"]) -> FloatArray:
        if not texts:
            return np.empty((0, self.dim), np.float32)
        read = [readable(prompt + text) for text in texts]
        slices = [read[start : start + _TEXTS] for start in range(0, len(read), _TEXTS)]
        answers = self._endpoint.ask([self._body(part, kind) for part in slices], seconds_left(_TIMEOUT_S))
        made = [self._vectors(answer, len(part)) for answer, part in zip(answers, slices, strict=True)]
        for vectors in made:
            if vectors.shape[1] != self._whole:
                raise ShoalError(
                    f"{self._endpoint.address.url} answers with vectors of {vectors.shape[1]:,} dimensions and had "
                    f"{self._whole:,} before: it computes another model now; let it compute the one before, or build "
                    "the index again"
                )
        return shortened(unit(np.concatenate(made)), self.dim)

    def _body(self, texts: list[str], kind: Literal["query", "passage"]) -> dict[str, Any]:
        model = {"model": self._model} if self._model else {}
        return {**model, "input": texts, **({"input_type": kind} if self._typed else {})}

    def _vectors(self, answer: Any, count: int) -> FloatArray:
        try:
            by_index = {int(item["index"]): item["embedding"] for item in answer["data"]}
            with np.errstate(over="ignore"):  # what float32 cannot hold is no finite number
                vectors = np.array([by_index[place] for place in range(count)], np.float32)
        except (KeyError, TypeError, ValueError, OverflowError):
            vectors = np.empty(0, np.float32)
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            raise ShoalError(f"{self._endpoint.address.url} answers with something else than a vector of each text")
        return vectors


def load(model: str, settings: EncoderSettings) -> RemoteEncoder:
    """Ask an endpoint what it is, and how many dimensions its vectors have.

    Raises InvalidArgument for an address that is none of an encoder, ModelUnavailable when it does not answer.
    """
    address = Address.parse(model, "/embeddings", "encoder")
    endpoint = Endpoint(address, "encoder")
    listed = endpoint.look_up(f"{address.url.removesuffix('/embeddings')}/models", _PROBE_S)
    entries = listed.get("data") if isinstance(listed, dict) else None
    served = [entry for entry in entries or () if isinstance(entry, dict) and entry.get("task", "embed") == "embed"]
    typed = any(entry.get("owned_by") == "shoal" for entry in served)
    name = address.model or (str(served[0].get("id")) if served else None)
    prompts = ("", "") if typed or name is None else models.prompts_of(name)
    return RemoteEncoder(endpoint, name, typed, prompts, settings)
