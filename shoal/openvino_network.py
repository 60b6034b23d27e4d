"""The transformer of a sentence-transformers model on OpenVINO, which computes faster than torch on a CPU.

Everything around the transformer (tokenizer, prompts, pooling, activation) stays with sentence-transformers, so that
what the model's own configuration says goes on to hold. A model is converted once and kept on disk under a digest of
its weights; after that, loading takes a fraction of a second.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shoal.errors import ModelUnavailable

# OpenVINO reports every import to its makers over the network, unless the module that does so is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

# OpenVINO looks NumPy up in the first call that brings an array, and keeps the interpreter's lock where it waits for
# that: two first calls side by side, as two lanes of one encoder make them, were seen to wait for each other for ever.
openvino.Tensor(np.zeros(1, np.float32), shared_memory=True)

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel
    from transformers import PreTrainedModel

_EXAMPLE = ["two texts of different length", "they show the converter what varies"]
_GROUP = 64
"""Neighbouring activations that share a scale when they are rounded to 8 bits."""

_log = logging.getLogger(__name__)


def run_on_openvino(model: "BaseModel", weights: str, dtype: str, threads: int, cache: Path) -> None:
    """Replace the forward pass of the model's transformer by a network compiled for this CPU, and free its weights.

    weights: digest of the model's weights. dtype: float32, bfloat16, or int8 (weights rounded to 8 bits with a scale
    for each output channel, activations at run time with a scale for each group of 64; the rest in bfloat16 where the
    CPU has it). threads: of a lone call; as many calls may run side by side from different threads, each on one.
    cache: folder of converted models.

    Raises ModelUnavailable when the model is not a transformer that OpenVINO can convert.
    """
    modality = getattr(model[0], "modality_config", {}).get("text", {})
    output = modality.get("method_output_name")
    if modality.get("method") != "forward" or not isinstance(output, str):
        raise ModelUnavailable("backend=openvino reads the output of a plain transformer: set backend to torch")
    network = model[0].model
    example = {name: value for name, value in model.preprocess(_EXAMPLE).items() if isinstance(value, torch.Tensor)}
    graph = _load(network, example, output, weights, dtype, cache)
    network.forward = _Forward(graph, list(example), output, dtype, threads)
    for parameter in network.parameters():  # OpenVINO holds its own copy
        parameter.data = torch.empty(0, dtype=parameter.dtype)


class _Forward:
    """Stands in for the `forward` of a transformers model: tensors in, its one output by name out."""

    def __init__(self, graph: openvino.Model, inputs: list[str], output: str, dtype: str, threads: int) -> None:
        self._inputs = inputs
        self._output = output
        # One stream of all threads answers a lone call soonest; a stream for each thread gets most out of many calls.
        self._alone = _compile(graph, dtype, threads, streams=1)
        self._beside = _compile(graph, dtype, threads, streams=threads) if threads > 1 else self._alone
        self._requests = threading.local()

    def __call__(self, **features: Any) -> dict[str, torch.Tensor]:
        # As in torch, the calling thread's own setting says how many threads may compute.
        compiled = self._alone if torch.get_num_threads() > 1 else self._beside
        key = "alone" if compiled is self._alone else "beside"
        request = getattr(self._requests, key, None)
        if request is None:
            request = compiled.create_infer_request()
            setattr(self._requests, key, request)
        inputs = {name: features[name].numpy() for name in self._inputs}
        return {self._output: torch.from_numpy(request.infer(inputs, share_inputs=True)[0])}


def _compile(graph: openvino.Model, dtype: str, threads: int, streams: int) -> openvino.CompiledModel:
    core = openvino.Core()
    bfloat16 = dtype != "float32" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # several workers share a machine
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if dtype == "int8" else 0,
    }
    return core.compile_model(graph, "CPU", options)


def _load(
    network: "PreTrainedModel", example: dict[str, torch.Tensor], output: str, weights: str, dtype: str, cache: Path
) -> openvino.Model:
    """Read the converted network from the cache; convert it first if it is not there."""
    identity = [weights, output, network.config.to_json_string(), *map(importlib.metadata.version, _CONVERTERS)]
    rounded = "int8" if dtype == "int8" else "float"
    folder = cache / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}-{rounded}"
    file = folder / "model.xml"
    if not file.exists():
        _log.info("converting %s for OpenVINO into %s", weights, folder)
        graph = _convert(network, example, output)
        if rounded == "int8":
            _round_weights(graph)
        _store(graph, folder)
    return openvino.Core().read_model(file)


_CONVERTERS = ("openvino", "transformers", "torch")


def _convert(network: torch.nn.Module, example: dict[str, torch.Tensor], output: str) -> openvino.Model:
    # Not openvino.convert_model, which changes the level of the root logger.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer remarks on every constant that it finds
            positional = _Positional(network, list(example), output)
            traced = TorchScriptPythonDecoder(positional, example_input=tuple(example.values()))
            frontend = FrontEndManager().load_by_framework("pytorch")
            graph = frontend.convert(frontend.load(traced))
    except Exception as error:  # whatever the tracer and the frontend raise
        raise ModelUnavailable(
            f"OpenVINO cannot convert this model ({type(error).__name__}: {error}): set backend to torch"
        ) from error
    for port, name in zip(graph.inputs, example, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
        port.get_node().set_element_type(openvino.Type.i64)
    graph.validate_nodes_and_infer_types()
    return graph


class _Positional(torch.nn.Module):
    """The transformer as a function of its inputs, by position, with one output."""

    def __init__(self, network: torch.nn.Module, inputs: list[str], output: str) -> None:
        super().__init__()
        self.network, self.inputs, self.output = network, inputs, output

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.inputs, tensors, strict=True))
        tensor: torch.Tensor = self.network(**named, return_dict=True)[self.output]
        return tensor


def _round_weights(graph: openvino.Model) -> None:
    """Store the weights of matrix products in 8 bits, symmetric, with a scale for each output channel.

    The CPU plugin then multiplies in integers and rounds the activations while it runs (dynamic quantisation).
    """
    from openvino import opset13

    for operation in graph.get_ops():
        if operation.get_type_name() != "MatMul":
            continue
        weights = operation.input_value(1).get_node()
        if weights.get_type_name() != "Constant" or len(weights.get_output_shape(0)) != 2:
            continue
        values = weights.data.astype(np.float32)
        channels = 1 if operation.get_attributes()["transpose_b"] else 0
        scale = np.maximum(np.abs(values).max(axis=channels, keepdims=True), np.finfo(np.float32).tiny) / 127
        rounded = opset13.convert(opset13.constant(np.rint(values / scale).astype(np.int8)), "f32")
        product = opset13.multiply(rounded, opset13.constant(scale))
        operation.input(1).replace_source_output(product.output(0))


def _store(graph: openvino.Model, folder: Path) -> None:
    """Put the network into the cache at once: a reader sees all of it or nothing, however many write it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        openvino.save_model(graph, scratch / "model.xml", compress_to_fp16=False)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
