"""What encoders and rerankers on torch share: device and precision, quiet loading, forward passes by token budget."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.records import RowArray

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

_WINDOW = 1024
"""Texts tokenised at once: bounds memory, and is wide enough that sorting within it leaves little padding."""

_LONGEST = 32_768
"""The most tokens of a text that the setting max_length allows to read."""

_UNPADDED = {"text": {"padding": False}, "common": {"return_tensors": None}}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def place(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Settle the settings `device` and `dtype`: a GPU if there is one, float16 there and float32 on a CPU.

    Raises InvalidArgument when a GPU is asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InvalidArgument(
            "device=cuda, but torch sees no GPU: install a CUDA build of torch, or set device to auto or cpu",
            param="device",
        )
    place = "cuda" if device == "cuda" or (device == "auto" and available) else "cpu"
    return place, _DTYPES[dtype] if dtype != "auto" else (torch.float16 if place == "cuda" else torch.float32)


@contextmanager
def loading(folder: Path, threads: int) -> Iterator[None]:
    """Load the model in a folder inside this: no progress bar and no advice is printed, and threads are bounded.

    Raises ModelUnavailable for whatever the libraries below raise. The tokenizers library takes its number of threads
    from the environment, once a process.
    """
    from transformers.utils import logging

    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    torch.set_num_threads(threads)
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # a broken folder fails in as many ways as there are libraries below
        raise ModelUnavailable(f"the model in {folder} cannot be loaded ({error}): is the folder complete?") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def limit_length(model: "BaseModel", max_length: int | None) -> int:
    """Set how many tokens of a text the model reads and return it; None keeps the model's own limit.

    Raises InvalidArgument when the model has no positions for so many.
    """
    positions = _positions(model)
    if max_length is not None and max_length > positions:
        raise InvalidArgument(
            f"max_length={max_length}, but the model reads at most {positions} tokens", param="max_length"
        )
    length = int(min(max_length or model.max_seq_length or positions, positions))
    if hasattr(model.tokenizer, "model_max_length"):  # static embeddings read texts of any length
        model.tokenizer.model_max_length = length
    return length


def _positions(model: "BaseModel") -> int:
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            # Models of the RoBERTa family count positions from behind the padding index.
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return min(getattr(model.config, "max_position_embeddings", None) or _LONGEST, _LONGEST)


def token_batches(lengths: NDArray[Any], batch_tokens: int) -> Iterator[RowArray]:
    """Split texts of these many tokens into batches of at most `batch_tokens`, padding included; longest first.

    Yields int64 rows of `lengths`. A single text longer than the budget is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def forward(
    model: "BaseModel", inputs: Sequence[Any], *, batch_tokens: int, threads: int, prompt: str | None, **options: Any
) -> Iterator[tuple[RowArray, dict[str, Any]]]:
    """Run a sentence-transformers model over texts or pairs, batched by token budget.

    Yields the rows of `inputs` in a batch, int64 (b,), and what the model's modules gave for them, on its device. The
    same inputs give the same batches and so the same bits. `options` go to the modules, as those of encode() do.
    """
    characters = [-sum(map(len, text)) if isinstance(text, tuple) else -len(text) for text in inputs]
    order = np.argsort(np.array(characters, dtype=np.int64), kind="stable")
    for start in range(0, len(order), _WINDOW):
        window = order[start : start + _WINDOW]
        texts = [_encodable(inputs[row]) for row in window]
        features = model.preprocess(texts, prompt=prompt, processing_kwargs=_UNPADDED, **options)
        if not isinstance(features["input_ids"], list):  # modules without padding, such as static embeddings
            yield window, _run(model, features, threads, options)
            continue
        ragged = {name: values for name, values in features.items() if isinstance(values, list)}
        shared = {name: value for name, value in features.items() if name not in ragged}
        for rows in token_batches(np.array([len(ids) for ids in ragged["input_ids"]]), batch_tokens):
            batch = {name: [values[row] for row in rows] for name, values in ragged.items()}
            padded = model.tokenizer.pad(batch, return_tensors="pt")
            yield window[rows], _run(model, {**shared, **padded}, threads, options)


def _encodable(text: str | tuple[str, ...]) -> str | tuple[str, ...]:
    # JSON can carry lone surrogates, and one of them would make the tokenizer refuse the whole batch.
    if isinstance(text, tuple):
        return tuple(part.encode("utf-8", "replace").decode("utf-8") for part in text)
    return text.encode("utf-8", "replace").decode("utf-8")


def _run(model: "BaseModel", features: dict[str, Any], threads: int, options: dict[str, Any]) -> dict[str, Any]:
    # Set on every call: torch counts threads per calling thread, and two models of one process may differ.
    torch.set_num_threads(threads)
    tensors = {name: value.to(model.device) for name, value in features.items() if isinstance(value, torch.Tensor)}
    with torch.inference_mode():
        result: dict[str, Any] = model({**features, **tensors}, **options)
    return result
