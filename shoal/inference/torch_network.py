"""Any sentence-transformers model on torch, on a GPU or a CPU, and what such a model says of itself."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from shoal.errors import ModelUnavailable
from shoal.inference import models
from shoal.inference.network import Input, Kind, ModelFacts, Output, Task, own_offsets, own_tokens, prompted
from shoal.inference.placement import Placement
from shoal.records import RowArray

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder, SparseEncoder
    from sentence_transformers.base.model import BaseModel

UNPADDED: dict[str, Any] = {"text": {"padding": False}, "common": {"return_tensors": None}}
"""Has `preprocess` give lists of tokens, as long as each text is."""

_WHOLE: dict[str, Any] = {"text": {"padding": False, "truncation": False}, "common": {"return_tensors": None}}
"""The same of whole texts."""

_LONGEST = 32_768
"""The most tokens of a text that the setting max_length allows to read."""


@dataclass(frozen=True, slots=True)
class _Tokenised:
    """Implements Tokenised over what `preprocess` of a model gives."""

    model: "BaseModel"
    features: dict[str, Any]
    task: Task | None

    @property
    def ids(self) -> list[list[int]] | None:
        """Tokens of each input; None for modules that know no padding, such as static embeddings."""
        ids = self.features["input_ids"]
        return ids if isinstance(ids, list) else None

    @property
    def prompt_length(self) -> int:
        """How many tokens come before each text."""
        return self.features.get("prompt_length") or 0

    def pick(self, parts: Sequence[tuple[int, RowArray]]) -> "_Tokenised":
        """Make inputs of some tokens of these."""
        picked = {
            name: [[values[row][at] for at in positions] for row, positions in parts]
            for name, values in self.features.items()
            if isinstance(values, list)
        }
        return _Tokenised(self.model, {**self.features, **picked}, self.task)

    def batch(self, rows: RowArray) -> tuple[dict[str, Any], Task | None]:
        """Pad some inputs; of one that knows no padding there is only the whole."""
        ragged = {name: values for name, values in self.features.items() if isinstance(values, list)}
        chosen = {name: [values[row] for row in rows] for name, values in ragged.items()}
        if not ragged:
            return self.features, self.task
        # A lone text needs no padding, and a query waits for every tenth of a millisecond.
        padded = (
            {name: torch.tensor(values) for name, values in chosen.items()}
            if len(rows) == 1
            else self.model.tokenizer.pad(chosen, return_tensors="pt")
        )
        return {**self.features, **padded}, self.task


class TorchNetwork:
    """Implements Network by the modules of a sentence-transformers model."""

    def __init__(self, model: "BaseModel", placement: Placement, max_length: int | None, *, compiled: bool) -> None:
        """Take a model over. Raises InvalidArgument for a length that it cannot read."""
        self._model = model.eval()
        self._activation = getattr(model, "activation_fn", None)
        self.placement = placement
        self.facts = describe(model)
        self.max_length = limit_length(model, max_length)
        self.reads_windows = hasattr(model.tokenizer, "model_max_length") and not _is_chat(model)
        if compiled:
            model.compile(dynamic=True)

    def tokenise(self, inputs: Sequence[Input], prompt: str, task: Task | None, most: int | None = None) -> _Tokenised:
        """Turn texts or pairs into tokens, the prompt before each."""
        wanted = UNPADDED if most is None else _text_options(max_length=most)
        features = self._model.preprocess(
            list(inputs), prompt=prompt or None, processing_kwargs=wanted, **_options(task)
        )
        return _Tokenised(self._model, features, task)

    def count_tokens(self, inputs: Sequence[Input], prompt: str) -> list[int]:
        """Count the tokens of whole texts or pairs, prompt and special tokens included."""
        tokenizer = self._model.tokenizer
        if not inputs or not hasattr(tokenizer, "model_max_length"):  # see `limit_length`
            return [0] * len(inputs)
        if _is_chat(self._model):  # what stands around texts is part of what is read
            whole = self._model.preprocess(list(inputs), prompt=prompt or None, processing_kwargs=_WHOLE)
        else:
            whole = tokenizer(prompted(inputs, prompt), truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in whole["input_ids"]]

    def locate_tokens(self, texts: Sequence[str], prompt: str) -> list[RowArray] | None:
        """Return where the own tokens of each text lie in it, int64 (t, 2), in characters; None if that is not told."""
        if not texts or not getattr(self._model.tokenizer, "is_fast", False):
            return None if texts else []
        wanted = _text_options(return_offsets_mapping=True)
        features = self._model.preprocess(
            list(texts), prompt=prompt or None, processing_kwargs=wanted, **_options("document")
        )
        length, special = features.get("prompt_length") or 0, self.facts.special
        read = zip(features["input_ids"], features["offset_mapping"], strict=True)
        return [own_offsets(ids, offsets, special, prompt, length) for ids, offsets in read]

    def run(self, batch: tuple[dict[str, Any], Task | None], threads: int, *, tokens: bool = False) -> Output:
        """Compute one batch."""
        # Set on every call: torch counts threads per calling thread, and two models of one process may differ.
        torch.set_num_threads(threads)
        features, task = batch
        if self.placement.device != "cpu":
            device = self._model.device
            tensors = {name: value.to(device) for name, value in features.items() if isinstance(value, torch.Tensor)}
            features = {**features, **tensors}
        with torch.inference_mode():
            made = self._model(dict(features), **_options(task))
            if self._activation is not None:
                return Output(_array(self._activation(made["scores"].float()).squeeze(-1)))
            vectors = _array(normalize(made["sentence_embedding"].float(), dim=-1))
            if not tokens or "token_embeddings" not in made:
                return Output(vectors)
            own = own_tokens(
                _array(features["input_ids"]),
                _array(features["attention_mask"]),
                self.facts.special,
                features.get("prompt_length", 0),
            )
            return Output(vectors, _array(normalize(made["token_embeddings"].float(), dim=-1)), own)


def _text_options(**options: Any) -> dict[str, Any]:
    """What has `preprocess` do so with texts, and give lists of tokens."""
    return {**UNPADDED, "text": {**UNPADDED["text"], **options}}


def _options(task: Task | None) -> dict[str, Any]:
    return {} if task is None else {"task": task}


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def load_model(kind: Kind, folder: Path, placement: Placement, threads: int) -> "BaseModel":
    """Load the sentence-transformers model in a folder, in the precision of the placement.

    Raises ModelUnavailable when it cannot be loaded.
    """
    _check_code(folder)
    # OpenVINO converts from float32 by itself.
    dtype = torch.float32 if placement.backend == "openvino" else getattr(torch, placement.dtype)
    options: dict[str, Any] = {"device": placement.device, "local_files_only": True, "model_kwargs": {"dtype": dtype}}
    with loading(folder, threads):
        if kind == "cross_encoder":
            from sentence_transformers import CrossEncoder

            return CrossEncoder(str(folder), **options)
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), **options)


def load_multi_vector(folder: Path, placement: Placement, threads: int) -> "MultiVectorEncoder":
    """Load the model in a folder that gives a vector for each token. Raises as `load_model`."""
    _check_code(folder)
    options: dict[str, Any] = {"device": placement.device, "model_kwargs": {"dtype": getattr(torch, placement.dtype)}}
    with loading(folder, threads):
        from sentence_transformers import MultiVectorEncoder

        return MultiVectorEncoder(str(folder), local_files_only=True, **options)


def load_sparse(folder: Path, placement: Placement, threads: int) -> "SparseEncoder":
    """Load the model in a folder that gives weights for terms. Raises as `load_model`."""
    _check_code(folder)
    options: dict[str, Any] = {"device": placement.device, "model_kwargs": {"dtype": getattr(torch, placement.dtype)}}
    with loading(folder, threads):
        from sentence_transformers import SparseEncoder

        return SparseEncoder(str(folder), local_files_only=True, **options).eval()


def _check_code(folder: Path) -> None:
    """Raise ModelUnavailable for a model that transformers and sentence-transformers have no classes for."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, code = models.own_code(folder)
    if code is not None and kind not in CONFIG_MAPPING:
        raise ModelUnavailable(
            f"the model in {folder} needs code of its own ({code}), which is never run: take a version of it that "
            "transformers has the classes of, take another model, or compute it elsewhere and name the address of its "
            "endpoint instead"
        )


@contextmanager
def loading(folder: Path, threads: int) -> Iterator[None]:
    """Load the model in a folder inside this: nothing is printed, and threads are bounded.

    Raises ModelUnavailable for whatever the libraries below raise.
    """
    torch.set_num_threads(threads)
    try:
        with quiet():
            yield
    except Exception as error:  # a broken folder fails in as many ways as there are libraries below
        raise ModelUnavailable(f"the model in {folder} cannot be loaded ({error}): is the folder complete?") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from showing progress bars and giving advice."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def describe(model: "BaseModel") -> ModelFacts:
    """Say of a model what its own configuration says."""
    scores = hasattr(model, "activation_fn")
    special = (getattr(model.tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos"))
    return ModelFacts(
        dim=int(model.num_labels if scores else model.get_embedding_dimension() or 0),
        pooling="" if scores else _pooling(model),
        query_prompt=model.prompts.get(model.default_prompt_name or "", "") if scores else _prompt(model, "query"),
        passage_prompt="" if scores else _prompt(model, "document", "passage", "corpus"),
        own_length=model.max_seq_length,
        positions=_positions(model),
        special=tuple(token for token in special if token is not None),
    )


def limit_length(model: "BaseModel", max_length: int | None) -> int:
    """Set how many tokens of a text the model reads and return it; None keeps the model's own limit.

    Raises InvalidArgument when the model has no positions for so many.
    """
    length = describe(model).max_length(max_length)
    if hasattr(model.tokenizer, "model_max_length"):  # static embeddings read texts of any length
        model.tokenizer.model_max_length = length
    return length


def _is_chat(model: "BaseModel") -> bool:
    """Whether the texts of a model stand in the template of a conversation."""
    return "message" in getattr(model[0], "modality_config", {})


def has_position_table(model: "BaseModel") -> bool:
    """Whether a model has learned a vector for each position, instead of computing with differences of positions."""
    return _position_table(model) is not None


def _position_table(model: "BaseModel") -> torch.nn.Embedding | None:
    tables = (getattr(module, "position_embeddings", None) for module in model.modules())
    return next((table for table in tables if isinstance(table, torch.nn.Embedding)), None)


def _positions(model: "BaseModel") -> int:
    table = _position_table(model)
    if table is not None:
        # Models of the RoBERTa family count positions from behind the padding index.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return min(getattr(model.config, "max_position_embeddings", None) or _LONGEST, _LONGEST)


def _prompt(model: "BaseModel", *names: str) -> str:
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def _pooling(model: "BaseModel") -> str:
    parts = []
    for module in list(model)[1:]:
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            parts.append(mode if isinstance(mode, str) else "-".join(mode))
        elif type(module).__name__ != "Normalize":
            parts.append(type(module).__name__.lower())
    return "+".join(parts)
