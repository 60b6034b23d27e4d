"""Any sentence-transformers cross-encoder, on any backend, with the activation, prompt and length it was saved with."""

from collections.abc import Sequence

import numpy as np

from shoal.errors import ModelUnavailable
from shoal.inference import load_network, models
from shoal.inference.runner import Runner
from shoal.records import FloatArray
from shoal.settings import RerankerSettings


class CrossEncoderReranker:
    """A CrossEncoder behind the Reranker protocol: same scores as its own predict."""

    def __init__(self, runner: Runner, prompt: str, name: str) -> None:
        self._runner = runner
        self._prompt = prompt
        self._name = name

    def name(self) -> str:
        """Name the reranker for /v1/index and for people."""
        return self._name

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        return self.score_pairs([(query, passage) for passage in passages])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return float32 (n,) in input order."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for rows, made in self._runner.forward(pairs, prompt=self._prompt):
            scores[rows] = made.result
        return scores

    def count_tokens(self, pairs: Sequence[tuple[str, str]]) -> int:
        """Count the tokens that are read of these pairs."""
        return sum(min(count, self._runner.max_length) for count in self._runner.count_tokens(pairs, self._prompt))


def load(model: str, settings: RerankerSettings) -> CrossEncoderReranker:
    """Load a model by preset, local path or hub name.

    Raises ModelUnavailable when it is not to be had or is no cross-encoder, InvalidArgument for a backend, device,
    precision or length that it or this machine lacks.
    """
    location = models.resolve(model)
    folder = location.fetch()
    if not models.architecture(folder).endswith(("ForSequenceClassification", "ForCausalLM")):
        raise ModelUnavailable(
            f"{model!r} has no head that scores pairs: set the reranker to a cross-encoder, or to late_interaction"
        )
    network = load_network(
        "cross_encoder", folder, location.digest(folder), settings, settings.max_length, settings.threads
    )
    if network.facts.dim != 1:
        raise ModelUnavailable(f"{model!r} gives {network.facts.dim} scores for a pair: a reranker gives one")
    return CrossEncoderReranker(Runner(network, settings, settings.threads), network.facts.query_prompt, model)
