"""The models that are trained: scores that carry gradients, by the formulas of shoal/rerankers/.

Loading, reading of texts and saving are those of sentence-transformers, so that the result is an ordinary model folder.
Its trainers are not used: none of their losses joins MaxSim with the pooled vector, and a Trainer's checkpoint is
neither atomic nor resumed to the same bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.inference import models
from shoal.inference.placement import has_bfloat16, place
from shoal.inference.runner import token_batches
from shoal.inference.torch_network import UNPADDED, describe, limit_length, loading, quiet
from shoal.records import RowArray
from shoal.rerankers.late_interaction import DENSE_WEIGHT
from shoal.settings import InferenceSettings, TrainSettings
from shoal.training.batches import Listing

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

_PARTS = 4
"""Passages held at once are computed in this many parts by length, so that little is padded."""


class Scorer(Protocol):
    """A model in training."""

    model: "BaseModel"
    """The sentence-transformers model whose weights are trained."""

    length: int
    """Tokens that it reads once it is trained; while it is, the setting max_length bounds them."""

    def score(self, query: str, passages: Sequence[str]) -> torch.Tensor:
        """Return float32 (n,), what the reranker in use would give, higher is better."""
        ...

    def losses(self, listings: Sequence[Listing]) -> torch.Tensor:
        """Return float32 (n,), for each listing the softmax cross-entropy of its first passage against the others."""
        ...


class LateInteractionScorer:
    """shoal/rerankers/late_interaction.py with gradients. Passages of the other queries are negatives as well."""

    def __init__(
        self, model: "BaseModel", passes: "Passes", length: int, prompts: tuple[str, str], temperature: float
    ) -> None:
        self.model, self.length = model, length
        self._passes = passes
        self._query_prompt, self._passage_prompt = prompts
        self._temperature = temperature
        self._special = torch.tensor(describe(model).special, device=model.device)

    def score(self, query: str, passages: Sequence[str]) -> torch.Tensor:
        """Return float32 (n,), as the reranker would."""
        return self._matrix([query], passages)[0]

    def losses(self, listings: Sequence[Listing]) -> torch.Tensor:
        """Return float32 (n,); each query is shown every passage of the group once, known positives only as such."""
        places: dict[int, int] = {}
        texts: list[str] = []
        for listing in listings:
            for row, passage in zip(listing.rows, listing.passages, strict=True):
                if row not in places:
                    places[row] = len(texts)
                    texts.append(passage)
        logits = self._matrix([listing.query for listing in listings], texts) / self._temperature
        targets = torch.tensor([places[listing.rows[0]] for listing in listings], device=logits.device)
        hidden = torch.zeros(logits.shape, dtype=torch.bool)
        for number, listing in enumerate(listings):
            for row in listing.positives & places.keys():
                hidden[number, places[row]] = row != listing.rows[0]
        return cross_entropy(logits.masked_fill(hidden.to(logits.device), -torch.inf), targets, reduction="none")

    def _matrix(self, queries: Sequence[str], passages: Sequence[str]) -> torch.Tensor:
        """Return the scores of all pairs, float32 (q, p)."""
        query_vectors, query_tokens, query_own = self._encode(queries, "query", self._query_prompt)
        vectors, tokens, own = self._encode(passages, "document", self._passage_prompt)
        late = []
        for text_tokens, text_own in zip(query_tokens, query_own, strict=True):
            similarities = torch.einsum("id,pjd->pij", text_tokens[text_own], tokens)
            best = similarities.masked_fill(~own[:, None, :], -torch.inf).amax(dim=2)
            late.append(best.mean(dim=1))
        return DENSE_WEIGHT * query_vectors @ vectors.T + (1 - DENSE_WEIGHT) * torch.stack(late)

    def _encode(self, texts: Sequence[str], task: str, prompt: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return unit vectors (n, d), unit vectors of tokens (n, t, h), and which are tokens of the texts, (n, t)."""
        vectors, tokens, own = [], [], []
        order: list[int] = []
        for rows, features in self._passes(self.model, texts, prompt=prompt or None, task=task):
            order += rows.tolist()
            vectors.append(normalize(features["sentence_embedding"].float(), dim=-1))
            tokens.append(normalize(features["token_embeddings"].float(), dim=-1))
            own.append(self._own_tokens(features))
        longest = max(part.shape[1] for part in own)
        back = torch.tensor(np.argsort(order), device=self.model.device)
        return (
            torch.cat(vectors)[back],
            torch.cat([_widened(part, longest) for part in tokens])[back],
            torch.cat([_widened(part, longest) for part in own])[back],
        )

    def _own_tokens(self, features: dict[str, Any]) -> torch.Tensor:
        """Mark the tokens of the texts themselves, bool (b, t); prompt and special tokens only for want of others."""
        read = features["attention_mask"].bool()
        own = read & ~torch.isin(features["input_ids"], self._special)
        own &= read.cumsum(dim=1) > features.get("prompt_length", 0)
        return torch.where(own.any(dim=1, keepdim=True), own, read)


class CrossEncoderScorer:
    """A CrossEncoder's scores before its activation."""

    def __init__(self, model: "BaseModel", passes: "Passes", length: int) -> None:
        self.model, self.length = model, length
        self._passes = passes
        self._prompt = model.prompts.get(model.default_prompt_name or "")

    def score(self, query: str, passages: Sequence[str]) -> torch.Tensor:
        """Return float32 (n,), in the order that the reranker would give."""
        return self._pairs([(query, passage) for passage in passages])

    def losses(self, listings: Sequence[Listing]) -> torch.Tensor:
        """Return float32 (n,); a query's known positives beyond the first are never among its negatives."""
        scores = self._pairs([(listing.query, passage) for listing in listings for passage in listing.passages])
        lists = torch.split(scores, [len(listing.passages) for listing in listings])
        return torch.stack(
            [cross_entropy(scores, torch.zeros((), dtype=torch.long).to(scores.device)) for scores in lists]
        )

    def _pairs(self, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
        scores, order = [], []
        for rows, features in self._passes(self.model, pairs, prompt=self._prompt):
            order += rows.tolist()
            scores.append(features["scores"].float().squeeze(-1))
        return torch.cat(scores)[torch.tensor(np.argsort(order), device=self.model.device)]


class Passes:
    """Forward passes over texts or pairs, in parts of similar length, at the precision of the training."""

    def __init__(self, device: str, bfloat16: bool, batch_tokens: int) -> None:
        self._device, self._bfloat16 = device, bfloat16
        self._budget = max(1, batch_tokens // _PARTS)

    def __call__(
        self, model: "BaseModel", inputs: Sequence[Any], *, prompt: str | None, **options: Any
    ) -> Iterator[tuple[RowArray, dict[str, Any]]]:
        """Yield the rows of `inputs` in a part, int64 (b,), and what the model's modules gave for them."""
        features = model.preprocess(list(inputs), prompt=prompt, processing_kwargs=UNPADDED, **options)
        ragged = {name: values for name, values in features.items() if isinstance(values, list)}
        shared = {name: value for name, value in features.items() if name not in ragged}
        for rows in token_batches(np.array([len(ids) for ids in ragged["input_ids"]]), self._budget):
            batch = {name: [values[row] for row in rows] for name, values in ragged.items()}
            padded = model.tokenizer.pad(batch, return_tensors="pt").to(model.device)
            with self._precision():
                yield rows, model({**shared, **padded}, **options)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16)


def load(settings: TrainSettings, threads: int) -> Scorer:
    """Load the model that training starts from, with float32 weights.

    Raises ModelUnavailable when it is not to be had or does not fit the kind, InvalidArgument for a length it lacks.
    """
    name = settings.base or settings.encoder
    location = models.resolve(name)
    folder = location.fetch()
    device = place(InferenceSettings(backend="torch", device=settings.device)).device
    passes = Passes(device, _takes_bfloat16(device, settings.dtype), settings.batch_tokens)
    head = models.architecture(folder).endswith(("ForSequenceClassification", "ForCausalLM"))
    options: dict[str, Any] = {"device": device, "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
    torch.manual_seed(settings.seed)  # a fresh head is the same for all workers
    if settings.kind == "cross_encoder":
        with loading(folder, threads):
            from sentence_transformers import CrossEncoder

            if not head:
                options |= {"num_labels": 1, "activation_fn": torch.nn.Identity()}
            cross = CrossEncoder(str(folder), **options)
        if cross.num_labels != 1:
            raise ModelUnavailable(f"{name!r} gives {cross.num_labels} scores for a pair: a reranker gives one")
        return CrossEncoderScorer(cross, passes, _shorten(cross, settings))
    if head:
        raise ModelUnavailable(f"{name!r} is a cross-encoder: train it with --kind cross_encoder")
    with loading(folder, threads):
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(str(folder), **options)
    if encoder.transformers_model is None:
        raise InvalidArgument(f"{name!r} has no token vectors, which late interaction needs", param="base")
    # The result carries its prompts with it, under the names that sentence-transformers gives them.
    facts = describe(encoder)
    query, passage = facts.query_prompt or location.query_prompt, facts.passage_prompt or location.passage_prompt
    encoder.prompts = {"query": query, "document": passage}
    length = _shorten(encoder, settings)
    return LateInteractionScorer(encoder, passes, length, (query, passage), settings.temperature)


def save(scorer: Scorer, folder: Path) -> None:
    """Write the model as a folder that sentence-transformers and Shoal load; safetensors only."""
    limit_length(scorer.model, scorer.length)
    with quiet():
        scorer.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _shorten(model: "BaseModel", settings: TrainSettings) -> int:
    """Let the model read as much as in training, and return how much it reads otherwise."""
    length = limit_length(model, None)
    limit_length(model, min(settings.max_length, length))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = settings.dropout
    return length


def _takes_bfloat16(device: str, dtype: str) -> bool:
    if dtype != "auto":
        return dtype == "bfloat16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bfloat16()


def _widened(part: torch.Tensor, length: int) -> torch.Tensor:
    """Pad dimension 1 with zeros."""
    missing = length - part.shape[1]
    return torch.cat([part, part.new_zeros((part.shape[0], missing, *part.shape[2:]))], dim=1)
