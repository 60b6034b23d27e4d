"""A model on OpenVINO, which computes faster than torch on a CPU and is loaded without it.

The model has been converted for it; see converted.py and conversion.py. Loading it takes a fraction of a second.
Memory: its weights once or twice, as the plugin packs them, and what is computed with; the file of the weights stays
mapped, for the table of embeddings, of which the rows that are read take memory.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from shoal.errors import ModelUnavailable
from shoal.inference.compiled import compile_graph
from shoal.inference.network import Input, ModelFacts, Output, Task, own_offsets, own_tokens, prompted, unit
from shoal.inference.placement import Placement
from shoal.records import RowArray
from shoal.system.memory import give_back, let_go

# OpenVINO looks NumPy up in the first call that brings an array, and keeps the interpreter's lock where it waits for
# that: two first calls side by side, as two lanes of one encoder make them, were seen to wait for each other for ever.
openvino.Tensor(np.zeros(1, np.float32), shared_memory=True)

TRANSFORMER, HEAD, TOKENIZER, DESCRIPTION = "transformer.xml", "head.xml", "tokenizer.json", "description.json"
"""Files of a converted model: the transformer, what follows it (pooling, activation), and how texts become tokens."""
WEIGHTS = "transformer.bin"
"""File of the transformer's weights."""

_GROUP = 64
"""Neighbouring activations that share a scale when they are rounded to 8 bits."""


class Description(BaseModel):
    """What a converted model needs beside its graphs and its tokenizer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: ModelFacts
    inputs: tuple[str, ...]
    """What the transformer reads, in the order of its graph."""
    masked: bool
    """Whether the head reads, after the transformer's output, which tokens there are."""
    skips_prompt: bool
    """Whether the tokens of the prompt take no part in pooling."""
    token_vectors: bool
    """Whether the transformer's output are the vectors of the tokens."""
    padding: dict[str, int]
    """What stands in the inputs where a text is shorter than the longest of its batch."""
    padding_side: Literal["left", "right"]
    truncation_side: Literal["left", "right"]
    endings: tuple[int, ...]
    """Tokens that do not count as a part of a prompt at its end."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Inputs of the transformer, int64 (b, t) each, and how many tokens of each row are the prompt's."""

    inputs: dict[str, NDArray[np.int64]]
    prompt_length: int


class _Tokenised:
    """Implements Tokenised over the tokens of each text, and the numbers of the texts that they belong to."""

    def __init__(
        self, description: Description, ids: list[list[int]], types: list[list[int]], prompt_length: int
    ) -> None:
        self._description = description
        self.ids = ids
        self._values = {"input_ids": ids, "token_type_ids": types}
        self.prompt_length = prompt_length

    def pick(self, parts: Sequence[tuple[int, RowArray]]) -> "_Tokenised":
        """Make inputs of some tokens of these."""
        ids, types = (
            [[values[row][at] for at in positions] for row, positions in parts]
            for values in (self.ids, self._values["token_type_ids"])
        )
        return _Tokenised(self._description, ids, types, self.prompt_length)

    def batch(self, rows: RowArray) -> _Batch:
        """Pad some of the inputs to the longest of them."""
        width = max(len(self.ids[row]) for row in rows)
        description = self._description
        names = dict.fromkeys((*description.inputs, "input_ids", "attention_mask"))
        inputs = {name: np.full((len(rows), width), description.padding[name], np.int64) for name in names}
        for place, row in enumerate(rows.tolist()):
            length = len(self.ids[row])
            span = slice(0, length) if description.padding_side == "right" else slice(width - length, width)
            for name, array in inputs.items():
                array[place, span] = 1 if name == "attention_mask" else self._values[name][row]
        return _Batch(inputs, self.prompt_length)


class OpenVinoNetwork:
    """Implements Network by a converted model."""

    reads_windows = True

    def __init__(
        self, converted: Path, placement: Placement, max_length: int | None, threads: int, *, kept: bool = False
    ) -> None:
        """Open a converted model.

        Args:
            placement: Its dtype is float32, bfloat16, or int8: weights rounded to 8 bits with a scale for each output
                channel, activations at run time with a scale for each group of 64; the rest in bfloat16 where the CPU
                has it.
            threads: Of a lone call; as many calls may run side by side from different threads, each on one.
            kept: Whether what is compiled is kept in the folder, for the next process.

        Raises:
            ModelUnavailable: A file of it is damaged.
            InvalidArgument: A length that the model cannot read.
        """
        self._core, self._converted, self._threads, self._kept = openvino.Core(), converted, threads, kept
        self.placement = placement
        self._compiling = threading.Lock()
        self._several: openvino.CompiledModel | None = None
        try:
            self._description = Description.model_validate_json((converted / DESCRIPTION).read_bytes())
            self._tokenizer = Tokenizer.from_file(str(converted / TOKENIZER))
            # One stream of all threads answers a lone call soonest.
            self._alone = self._compile(TRANSFORMER, placement.dtype, streams=1)
            # What follows is too little to gain by another precision, and loses by it: sums over many tokens.
            self._head = self._compile(HEAD, "float32", streams=threads)
        except Exception as error:  # each library raises its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelUnavailable(
                f"the converted model in {converted} cannot be read ({reason}): remove the folder, and it is made anew"
            ) from error
        self._endings = frozenset(self._description.endings)
        self.facts = self._description.facts
        self.max_length = self.facts.max_length(max_length)
        self._tokenizer.no_padding()
        self._truncate(self.max_length)
        self._requests = threading.local()

    def tokenise(self, inputs: Sequence[Input], prompt: str, task: Task | None, most: int | None = None) -> _Tokenised:
        """Turn texts or pairs into tokens, the prompt before each."""
        with self._cut_at(most or self.max_length):
            encodings = self._tokenizer.encode_batch_fast(prompted(inputs, prompt))
        ids, types = [one.ids for one in encodings], [one.type_ids for one in encodings]
        return _Tokenised(self._description, ids, types, self._prompt_length(prompt))

    def count_tokens(self, inputs: Sequence[Input], prompt: str) -> list[int]:
        """Count the tokens of whole texts or pairs, prompt and special tokens included."""
        self._tokenizer.no_truncation()
        try:
            return [len(one.ids) for one in self._tokenizer.encode_batch_fast(prompted(inputs, prompt))]
        finally:
            self._truncate(self.max_length)

    def locate_tokens(self, texts: Sequence[str], prompt: str) -> list[RowArray]:
        """Return where the own tokens of each text lie in it, int64 (t, 2), in characters."""
        length = self._prompt_length(prompt)
        encodings = self._tokenizer.encode_batch([prompt + text for text in texts])
        return [own_offsets(one.ids, one.offsets, self.facts.special, prompt, length) for one in encodings]

    @contextmanager
    def _cut_at(self, most: int) -> Iterator[None]:
        """Have texts cut to so many tokens inside this."""
        if most == self.max_length:
            yield
            return
        self._truncate(most)
        try:
            yield
        finally:
            self._truncate(self.max_length)

    def _truncate(self, most: int) -> None:
        self._tokenizer.enable_truncation(most, strategy="longest_first", direction=self._description.truncation_side)

    def _prompt_length(self, prompt: str) -> int:
        if not prompt:
            return 0
        ids = self._tokenizer.encode(prompt).ids
        return len(ids) - (not self._endings.isdisjoint(ids[-1:]))

    def run(self, batch: _Batch, threads: int, *, tokens: bool = False) -> Output:
        """Compute one batch, on one thread or on all."""
        transformer, head = self._own_requests(alone=threads > 1)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        read = transformer.infer(
            {name: batch.inputs[name] for name in self._description.inputs}, share_inputs=True, share_outputs=True
        )[0]
        if not self._requests.begun:  # the first pass packs weights too
            self._requests.begun = True
            self._tidy()
        if self._description.masked:
            result = head.infer([read, self._pooled(mask, batch.prompt_length)], share_inputs=True)[0]
        else:
            result = head.infer([read], share_inputs=True)[0]
        if not tokens or not self._description.token_vectors:
            return Output(result)
        return Output(result, unit(read), own_tokens(ids, mask, self.facts.special, batch.prompt_length))

    def _pooled(self, mask: NDArray[np.int64], prompt_length: int) -> NDArray[np.int64]:
        """Which tokens take part in pooling."""
        if not self._description.skips_prompt:
            return mask
        return np.where(mask.cumsum(axis=1) > prompt_length, mask, 0)

    def _own_requests(self, *, alone: bool) -> tuple[Any, Any]:
        """Requests belong to the calling thread."""
        mine = self._requests
        if not hasattr(mine, "head"):
            mine.head, mine.alone, mine.beside = self._head.create_infer_request(), None, None
            mine.begun = False
        if alone:
            mine.alone = mine.alone or self._alone.create_infer_request()
            return mine.alone, mine.head
        mine.beside = mine.beside or self._side_by_side().create_infer_request()
        return mine.beside, mine.head

    def _side_by_side(self) -> openvino.CompiledModel:
        """The model with a stream for each thread, which gets most out of many calls; compiled when first needed."""
        if self._threads == 1:
            return self._alone
        with self._compiling:
            if self._several is None:
                self._several = self._compile(TRANSFORMER, self.placement.dtype, streams=self._threads)
            return self._several

    def _compile(self, graph: str, dtype: str, streams: int) -> openvino.CompiledModel:
        bfloat16 = dtype != "float32" and "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # several workers share a machine
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if dtype == "int8" else 0,
        }
        file = self._converted / graph
        compiled = compile_graph(self._core, file, options, kept=self._kept)
        self._tidy()
        return compiled

    def _tidy(self) -> None:
        """Let go of the weights in their file, once the plugin has packed them, and of what it needed for that."""
        let_go(self._converted / WEIGHTS)
        give_back()
