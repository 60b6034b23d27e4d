"""What encoders and rerankers share: backend and precision, quiet loading, forward passes by token budget."""

import importlib.util
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.records import RowArray
from shoal.settings import InferenceSettings

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

_WINDOW = 1024
"""Texts tokenised at once: bounds memory, and is wide enough that sorting within it leaves little padding."""

_LONGEST = 32_768
"""The most tokens of a text that the setting max_length allows to read."""

_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 2_048, 65_536
"""Default token budgets: on a CPU the activations of a small model stay in its caches, a GPU wants to be filled."""

_CALL_TOKENS = 64
"""What a forward pass on a CPU costs beside its tokens, in tokens: measured with a small model, whose weights have to
be read each time. Where padding would cost more, a batch of its own is cheaper."""

_AHEAD = 4
"""Batches a thread that wait to be computed: while they are, the next window is tokenised."""

_BACKENDS = ("openvino", "torch")
_UNPADDED = {"text": {"padding": False}, "common": {"return_tensors": None}}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """What computes a model (`torch` or `openvino`), where (`cpu` or `cuda`) and in which precision."""

    backend: str
    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """In what the weights are loaded; OpenVINO converts from float32 by itself."""
        dtype: torch.dtype = torch.float32 if self.backend == "openvino" else getattr(torch, self.dtype)
        return dtype

    def __str__(self) -> str:
        return f"{self.backend} on {self.device} in {self.dtype}"


def place(settings: InferenceSettings) -> Placement:
    """Settle `backend`, `device` and `dtype` for this machine.

    auto means: a GPU, if torch sees one, with torch in float16; else OpenVINO where it is installed, else torch; in
    bfloat16 where the processor multiplies it natively, else float32. Raises InvalidArgument for what cannot be had.
    """
    backend, device, dtype = settings.backend, settings.device, settings.dtype
    cuda = torch.cuda.is_available()
    if backend not in ("auto", *_BACKENDS):
        raise InvalidArgument(f"backend={backend!r}: use auto or one of {', '.join(_BACKENDS)}", param="backend")
    if device == "cuda" and not cuda:
        raise InvalidArgument(
            "device=cuda, but torch sees no GPU: install a CUDA build of torch, or set device to auto or cpu",
            param="device",
        )
    if device == "auto":
        device = "cuda" if cuda and backend != "openvino" and dtype != "int8" else "cpu"
    if backend == "auto":
        backend = "openvino" if device == "cpu" and dtype != "float16" and has_openvino() else "torch"
    if backend == "openvino":
        if device == "cuda":
            raise InvalidArgument("backend=openvino computes on CPUs: set device to cpu, or backend to torch")
        if not has_openvino():
            raise InvalidArgument(
                "backend=openvino, but the package openvino is not installed: install shoal[cpu], or set backend=torch",
                param="backend",
            )
        if dtype == "float16":
            raise InvalidArgument("dtype=float16 needs backend=torch; a CPU takes bfloat16 or float32", param="dtype")
    elif dtype == "int8":
        raise InvalidArgument("dtype=int8 needs backend=openvino on a CPU", param="dtype")
    if dtype == "auto":
        dtype = "float16" if device == "cuda" else "bfloat16" if has_bfloat16() else "float32"
    return Placement(backend, device, dtype)


def has_openvino() -> bool:
    """Whether OpenVINO is installed; found, not imported."""
    return importlib.util.find_spec("openvino") is not None


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX); elsewhere it is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def loading(folder: Path, threads: int) -> Iterator[None]:
    """Load the model in a folder inside this: nothing is printed, and threads are bounded.

    Raises ModelUnavailable for whatever the libraries below raise. The tokenizers library takes its number of threads
    from the environment, once a process.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
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


def token_batches(lengths: NDArray[Any], batch_tokens: int, padding: int | None = None) -> Iterator[RowArray]:
    """Split texts of these many tokens into batches of at most `batch_tokens`, padding included; longest first.

    padding: most tokens of padding in a batch, which should be what a batch of its own costs; None sets no bound.
    Yields int64 rows of `lengths`. A single text longer than the budget is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, batch_tokens // max(1, longest))]
        if padding is not None:
            rows = rows[: np.searchsorted(np.cumsum(longest - lengths[rows]), padding, side="right")]
        yield rows
        start += len(rows)


class Runner:
    """Runs the modules of a sentence-transformers model over texts or pairs, batched by token budget.

    On a CPU several batches are computed side by side, each on one thread, which is faster than one batch on several;
    meanwhile the texts of the next window are tokenised. A lone batch gets all threads, for the least latency. Which
    texts share a batch depends on the texts alone: the same inputs give the same bits.
    Not safe for concurrent calls. `placement`: what computes, where and in which precision.

    weights: digest of the model's weights. threads: CPU threads. Raises what `run_on_openvino` raises.
    """

    def __init__(
        self, model: "BaseModel", weights: str, placement: Placement, threads: int, settings: InferenceSettings
    ) -> None:
        self._model = model.eval()
        self._threads = threads
        cuda = placement.device == "cuda"
        self._batch_tokens = settings.batch_tokens or (_GPU_BATCH_TOKENS if cuda else _CPU_BATCH_TOKENS)
        self._padding = None if cuda else _CALL_TOKENS
        self._lanes = 1 if cuda else threads
        self._pool = ThreadPoolExecutor(self._lanes, thread_name_prefix="inference")
        self.placement = self._prepare(weights, placement, settings)
        _log.info("%s", self.placement)

    def _prepare(self, weights: str, placement: Placement, settings: InferenceSettings) -> Placement:
        """Bring the model onto its backend. Returns what was settled, which is torch where `auto` finds no other."""
        if placement.backend == "openvino":
            from shoal.openvino_network import run_on_openvino

            cache = Path(settings.model_cache_dir).expanduser()
            try:
                with quiet():
                    run_on_openvino(self._model, weights, placement.dtype, self._threads, cache)
                return placement
            except ModelUnavailable as error:
                if settings.backend != "auto" or placement.dtype == "int8":
                    raise
                _log.warning("%s; auto falls back to torch", error)
                placement = replace(placement, backend="torch")
                self._model.to(placement.torch_dtype)
        if settings.torch_compile:
            self._model.compile(dynamic=True)
        return placement

    def forward(
        self, inputs: Sequence[Any], *, prompt: str | None, **options: Any
    ) -> Iterator[tuple[RowArray, dict[str, Any]]]:
        """Run the model over texts or pairs.

        Yields the rows of `inputs` in a batch, int64 (b,), and what the model's modules gave for them, on its device.
        `options` go to the modules, as those of encode() do.
        """
        batches = self._batches(inputs, prompt, options)
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return
        if second is None:
            yield first[0], self._run(first[1], self._threads, options)
            return
        pending: deque[tuple[RowArray, Future[dict[str, Any]]]] = deque()
        try:
            for rows, features in chain((first, second), batches):
                if len(pending) >= _AHEAD * self._lanes:
                    done, future = pending.popleft()
                    yield done, future.result()
                pending.append((rows, self._pool.submit(self._run, features, self._threads // self._lanes, options)))
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _batches(
        self, inputs: Sequence[Any], prompt: str | None, options: dict[str, Any]
    ) -> Iterator[tuple[RowArray, dict[str, Any]]]:
        """Tokenise window by window, longest texts first. Yields the rows and the padded features of each batch."""
        model = self._model
        characters = [-sum(map(len, text)) if isinstance(text, tuple) else -len(text) for text in inputs]
        order = np.argsort(np.array(characters, dtype=np.int64), kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            texts = [_encodable(inputs[row]) for row in window]
            features = model.preprocess(texts, prompt=prompt, processing_kwargs=_UNPADDED, **options)
            if not isinstance(features["input_ids"], list):  # modules without padding, such as static embeddings
                yield window, features
                continue
            ragged = {name: values for name, values in features.items() if isinstance(values, list)}
            shared = {name: value for name, value in features.items() if name not in ragged}
            lengths = np.array([len(ids) for ids in ragged["input_ids"]])
            for rows in token_batches(lengths, self._batch_tokens, self._padding):
                batch = {name: [values[row] for row in rows] for name, values in ragged.items()}
                # A lone text needs no padding, and a query waits for every tenth of a millisecond.
                padded = (
                    {name: torch.tensor(values) for name, values in batch.items()}
                    if len(rows) == 1
                    else model.tokenizer.pad(batch, return_tensors="pt")
                )
                yield window[rows], {**shared, **padded}

    def _run(self, features: dict[str, Any], threads: int, options: dict[str, Any]) -> dict[str, Any]:
        # Set on every call: torch counts threads per calling thread, and two models of one process may differ.
        torch.set_num_threads(threads)
        if self.placement.device != "cpu":
            device = self._model.device
            tensors = {name: value.to(device) for name, value in features.items() if isinstance(value, torch.Tensor)}
            features = {**features, **tensors}
        with torch.inference_mode():
            result: dict[str, Any] = self._model(dict(features), **options)
        return result


def _encodable(text: str | tuple[str, ...]) -> str | tuple[str, ...]:
    # JSON can carry lone surrogates, and one of them would make the tokenizer refuse the whole batch.
    if isinstance(text, tuple):
        return tuple(part.encode("utf-8", "replace").decode("utf-8") for part in text)
    return text.encode("utf-8", "replace").decode("utf-8")
