"""Any sentence-transformers cross-encoder, on any backend, with the activation, prompt and length it was saved with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from shoal import inference, models
from shoal.errors import ModelUnavailable
from shoal.inference import Runner
from shoal.records import FloatArray
from shoal.settings import RerankerSettings

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderReranker:
    """A CrossEncoder behind the Reranker protocol: same scores as its own predict."""

    def __init__(self, model: "CrossEncoder", runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._activation = model.activation_fn
        self._prompt = model.prompts.get(model.default_prompt_name or "")

    def name(self) -> str:
        """Name the reranker for /v1/index and for people."""
        return self._name

    def score(self, query: str, passages: Sequence[str]) -> FloatArray:
        """Return float32 (n,), higher is better, in input order."""
        return self.score_pairs([(query, passage) for passage in passages])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return float32 (n,) in input order."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for rows, features in self._runner.forward(pairs, prompt=self._prompt):
            scores[rows] = self._activation(features["scores"].float()).squeeze(-1).cpu().numpy()
        return scores


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
    placement = inference.place(settings)
    with inference.loading(folder, settings.threads):
        from sentence_transformers import CrossEncoder

        loaded = CrossEncoder(
            str(folder),
            device=placement.device,
            local_files_only=True,
            model_kwargs={"dtype": placement.torch_dtype},
        )
    if loaded.num_labels != 1:
        raise ModelUnavailable(f"{model!r} gives {loaded.num_labels} scores for a pair: a reranker gives one")
    inference.limit_length(loaded, settings.max_length)
    runner = Runner(loaded, location.digest(folder), placement, settings.threads, settings)
    return CrossEncoderReranker(loaded, runner, model)
