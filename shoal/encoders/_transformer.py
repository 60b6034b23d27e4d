"""Any sentence-transformers bi-encoder, on whatever backend computes it."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from shoal.encoders import TextVectors
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.fingerprint import Fingerprint, instructed
from shoal.inference import load_network, models
from shoal.inference.network import Network, Output, Task, shortened, unit
from shoal.inference.runner import Runner
from shoal.records import FloatArray, RowArray
from shoal.settings import EncoderSettings


class TransformerEncoder:
    """A SentenceTransformer behind the Encoder protocol: same vectors as its own encode_query and encode_document."""

    def __init__(self, runner: Runner, fingerprint: Fingerprint) -> None:
        self._runner = runner
        self._fingerprint = fingerprint

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._fingerprint.dim

    @property
    def full_texts(self) -> int:
        """Texts so far that took all the tokens that are read."""
        return self._runner.full_texts

    def fingerprint(self) -> Fingerprint:
        """Name everything that decides which vector a text gets."""
        return self._fingerprint

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order; see `shoal.encoders.InstructedEncoder`."""
        return self._vectors(texts, "query", instruction)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 (n, dim), rows L2-normalised, in input order."""
        return self._vectors(texts, "document")

    def encode_query_tokens(self, texts: Sequence[str], instruction: str | None = None) -> list[TextVectors]:
        """Encode queries and their tokens, in input order; see `shoal.encoders.InstructedEncoder`."""
        return self._tokens(texts, "query", instruction)

    def encode_passage_tokens(self, texts: Sequence[str]) -> list[TextVectors]:
        """Encode passages and their tokens, in input order."""
        return self._tokens(texts, "document")

    def locate_passage_tokens(self, texts: Sequence[str]) -> list[RowArray] | None:
        """Find the tokens of passages in their texts, in input order; see `shoal.encoders.TokenLocator`."""
        return self._runner.locate_tokens(texts, self._fingerprint.passage_prompt)

    def count_query_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of whole queries, in input order; see `shoal.encoders.TokenCounter`."""
        return self._runner.count_tokens(texts, self._fingerprint.query_prompt)

    def count_passage_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of whole passages, in input order; see `shoal.encoders.TokenCounter`."""
        return self._runner.count_tokens(texts, self._fingerprint.passage_prompt)

    def _vectors(self, texts: Sequence[str], task: Task, instruction: str | None = None) -> FloatArray:
        means = _Means(len(texts), self.dim)
        for rows, made in self._forward(texts, task, instruction, tokens=False):
            means.add(rows, shortened(made.result, self.dim))
        return means.unit()

    def _tokens(self, texts: Sequence[str], task: Task, instruction: str | None = None) -> list[TextVectors]:
        means, parts = _Means(len(texts), self.dim), [list[NDArray[np.floating]]() for _ in texts]
        for rows, made in self._forward(texts, task, instruction, tokens=True):
            if made.tokens is None or made.own is None:
                raise InvalidArgument(f"the encoder {self._fingerprint.model} has no token vectors", param="encoder")
            means.add(rows, shortened(made.result, self.dim))
            for position, row in enumerate(rows.tolist()):
                parts[row].append(made.tokens[position, made.own[position]])
        tokens = (windows[0] if len(windows) == 1 else np.concatenate(windows) for windows in parts)
        return [TextVectors(vector, own) for vector, own in zip(means.unit(), tokens, strict=True)]

    def _forward(
        self, texts: Sequence[str], task: Task, instruction: str | None, *, tokens: bool
    ) -> Iterator[tuple[RowArray, Output]]:
        prompt = self._fingerprint.query_prompt if task == "query" else self._fingerprint.passage_prompt
        if instruction is not None:
            prompt = instructed(prompt, instruction)
        most = self._fingerprint.passage_tokens or None if task == "document" else None
        return self._runner.forward(texts, prompt=prompt, task=task, tokens=tokens, most=most)


class _Means:
    """Vectors of `count` texts, each the mean of those of its windows, brought to length 1."""

    def __init__(self, count: int, dim: int) -> None:
        self._sums = np.zeros((count, dim), np.float32)
        self._windows = np.zeros(count, np.int64)

    def add(self, rows: RowArray, vectors: FloatArray) -> None:
        """Add a window's vector, float32 (b, dim), to each of some texts, int64 (b,), which may repeat."""
        np.add.at(self._sums, rows, vectors)
        np.add.at(self._windows, rows, 1)

    def unit(self) -> FloatArray:
        """Return float32 (count, dim); the vector of a text that was read in one go is as it came."""
        several = self._windows > 1
        self._sums[several] = unit(self._sums[several])
        return self._sums


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
    network = load_network("encoder", folder, weights, settings, settings.max_length, settings.threads)
    facts = network.facts
    query_prompt = facts.query_prompt or location.query_prompt
    if settings.query_instruction is not None:
        query_prompt = instructed(query_prompt, settings.query_instruction)
    fingerprint = Fingerprint(
        model=location.name,
        weights=weights,
        dim=min(settings.dimensions or facts.dim, facts.dim),
        pooling=facts.pooling,
        query_prompt=query_prompt,
        passage_prompt=facts.passage_prompt or location.passage_prompt,
        max_length=network.max_length,
        dtype=network.placement.dtype,
        passage_tokens=_passage_tokens(network, settings),
    )
    return TransformerEncoder(Runner(network, settings, settings.threads), fingerprint)


def _passage_tokens(network: Network, settings: EncoderSettings) -> int:
    """Tokens that are read of a passage in windows; 0 if the model reads as many in one go, or no windows."""
    return settings.passage_tokens if network.reads_windows and settings.passage_tokens > network.max_length else 0
