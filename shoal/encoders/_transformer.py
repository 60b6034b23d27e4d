"""Any sentence-transformers bi-encoder, on whatever backend computes it."""

from collections.abc import Iterator, Sequence

import numpy as np

from shoal.encoders import TextVectors
from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.fingerprint import Fingerprint, instructed
from shoal.inference import load_network, models
from shoal.inference.network import Output, Task, shortened
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
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for rows, made in self._forward(texts, task, instruction, tokens=False):
            vectors[rows] = shortened(made.result, self.dim)
        return vectors

    def _tokens(self, texts: Sequence[str], task: Task, instruction: str | None = None) -> list[TextVectors]:
        encoded: dict[int, TextVectors] = {}
        for rows, made in self._forward(texts, task, instruction, tokens=True):
            if made.tokens is None or made.own is None:
                raise InvalidArgument(f"the encoder {self._fingerprint.model} has no token vectors", param="encoder")
            vectors = shortened(made.result, self.dim)
            for position, row in enumerate(rows.tolist()):
                encoded[row] = TextVectors(vectors[position], made.tokens[position, made.own[position]])
        return [encoded[row] for row in range(len(texts))]

    def _forward(
        self, texts: Sequence[str], task: Task, instruction: str | None, *, tokens: bool
    ) -> Iterator[tuple[RowArray, Output]]:
        prompt = self._fingerprint.query_prompt if task == "query" else self._fingerprint.passage_prompt
        if instruction is not None:
            prompt = instructed(prompt, instruction)
        return self._runner.forward(texts, prompt=prompt, task=task, tokens=tokens)


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
    )
    return TransformerEncoder(Runner(network, settings, settings.threads), fingerprint)
