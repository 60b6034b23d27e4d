"""Conversion of sentence-transformers models for OpenVINO: done once, and held against the model itself.

What a model's own configuration says (prompts, length, pooling, activation) is read out of it and written down, so that
it holds wherever the converted model is loaded.
"""

import itertools
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import openvino
import torch

from shoal.inference.compiled import FOLDER
from shoal.inference.digests import not_kept, write_digests
from shoal.inference.network import Input, Kind, Network, NotConvertible, Task
from shoal.inference.openvino_network import DESCRIPTION, HEAD, TOKENIZER, TRANSFORMER, Description, OpenVinoNetwork
from shoal.inference.placement import Placement
from shoal.inference.torch_network import TorchNetwork, describe, has_position_table, load_model, quiet
from shoal.inference.tracing import is_windowed, traceable

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
"""Tensors that a converted network takes."""
_REFERENCE = Placement("torch", "cpu", "float32")
"""Where the original computes that the conversion is compared with."""
_EXAMPLE = ["two texts of different length", "they show the converter what varies"]
"""Texts by which the network is traced."""
_CHECKS = ["red fish", "", "naïve café 日本語 🎉 " * 5, "a text that is longer than is read " * 60]
"""Texts by which a conversion is compared with the original."""
_CHECKED_LENGTH = 256
"""Tokens that are read of these: at the full length of some models, the comparison would take more than the rest."""
_AGREEMENT = 0.999
"""Least cosine between the vectors of the model and of what was made of it, both in float32."""
_DIFFERENCE = 0.01
"""Most by which scores may differ."""

_log = logging.getLogger(__name__)


def convert(kind: Kind, folder: Path, into: Path, threads: int) -> None:
    """Convert the model in a folder.

    Raises NotConvertible when OpenVINO cannot compute it, ModelUnavailable when it cannot be loaded or kept.
    """
    model = load_model(kind, folder, Placement("openvino", "cpu", "float32"), threads)
    _log.info("converting %s for OpenVINO into %s", folder, into)
    with quiet(), _stored(into) as scratch:
        try:
            _write(model, scratch)
            _compare(model, kind, scratch)
        except (NotConvertible, OSError):
            raise
        except Exception as error:  # whatever the tracer and the frontend raise
            raise NotConvertible(
                f"OpenVINO cannot convert this model ({type(error).__name__}: {error}): set backend to torch"
            ) from error


def round_weights(converted: Path, into: Path) -> None:
    """Store a converted model with the weights of its matrix products in 8 bits, symmetric, a scale for each channel.

    The CPU plugin then multiplies in integers and rounds the activations while it runs (dynamic quantisation).
    """
    from openvino import opset13

    graph = openvino.Core().read_model(converted / TRANSFORMER)
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
    with _stored(into) as scratch:
        shutil.copytree(converted, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("transformer.*", FOLDER))
        openvino.save_model(graph, scratch / TRANSFORMER, compress_to_fp16=False)


@contextmanager
def _stored(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes `folder` at once: a reader sees all or nothing, however many write it.

    Raises ModelUnavailable when the disk does not take it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            yield scratch
            write_digests(scratch)
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise not_kept(folder, error) from error


def _write(model: "BaseModel", folder: Path) -> None:
    """Write everything that a converted model consists of."""
    modality = getattr(model[0], "modality_config", {}).get("text", {})
    output = modality.get("method_output_name")
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if getattr(model[0], "module_output_name", None) == "causal_logits":
        raise NotConvertible("a language model that reranks is computed by torch: set backend to torch")
    if modality.get("method") != "forward" or not isinstance(output, str) or backend is None:
        raise NotConvertible("backend=openvino reads the output of a plain transformer: set backend to torch")
    side = _padding_side(model)
    with _padded(tokenizer, side):
        features = model.preprocess(_EXAMPLE)
    example = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    if not {"input_ids", "attention_mask"} <= example.keys() <= _INPUTS:
        raise NotConvertible(f"backend=openvino knows no input {', '.join(example.keys() - _INPUTS)}: set it to torch")

    names, made = list(example), model[0].module_output_name
    pooling = [module for module in list(model)[1:] if hasattr(module, "pooling_mode")]

    def transformer(*tensors: torch.Tensor) -> torch.Tensor:
        tensor: torch.Tensor = model[0].model(**dict(zip(names, tensors, strict=True)), return_dict=True)[output]
        return tensor

    def head(read: torch.Tensor, *mask: torch.Tensor) -> torch.Tensor:
        passed = {made: read, **dict(zip(["attention_mask"], mask, strict=False))}
        for module in list(model)[1:]:
            passed = module(passed)
        if hasattr(model, "activation_fn"):
            scores: torch.Tensor = model.activation_fn(passed["scores"]).squeeze(-1)
            return scores
        return torch.nn.functional.normalize(passed["sentence_embedding"], dim=-1)

    with torch.inference_mode():
        read = transformer(*example.values())
    arguments = (read, example["attention_mask"]) if pooling else (read,)
    _save(_traced(model, transformer, example), folder / TRANSFORMER)
    named = dict(zip(("read", "mask"), arguments, strict=False))
    _save(_traced(model, head, named), folder / HEAD)
    backend.save(str(folder / TOKENIZER))
    description = Description(
        facts=describe(model),
        inputs=tuple(names),
        masked=bool(pooling),
        skips_prompt=any(not getattr(module, "include_prompt", True) for module in pooling),
        token_vectors=made == "token_embeddings",
        padding={
            "input_ids": tokenizer.pad_token_id or 0,
            "attention_mask": 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        },
        padding_side=side,
        truncation_side=tokenizer.truncation_side,
        endings=tuple(tokenizer.all_special_ids),
    )
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1))


def _padding_side(model: "BaseModel") -> Literal["left", "right"]:
    """Where texts are padded for the converted model.

    Right, whatever the tokenizer does, unless positions are numbered from the first token of a row, padding or not: a
    token that reads only those before it needs no padding there, which had nothing to read and would become no number.
    """
    side: Literal["left", "right"] = model.tokenizer.padding_side
    return side if has_position_table(model) else "right"


@contextmanager
def _padded(tokenizer: Any, side: str) -> Iterator[None]:
    own, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        yield
    finally:
        tokenizer.padding_side = own


class _Positional(torch.nn.Module):
    """A function of tensors by position, over the weights of a model."""

    def __init__(self, model: "BaseModel", function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.modules_of_model, self.function = torch.nn.ModuleList(model), function

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.function(*tensors)


def _traced(
    model: "BaseModel", function: Callable[..., torch.Tensor], example: dict[str, torch.Tensor]
) -> openvino.Model:
    """Trace a function of named tensors, whose first two dimensions vary."""
    # Not openvino.convert_model, which changes the level of the root logger.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    windowed = is_windowed(model[0].model.config)
    with warnings.catch_warnings(), torch.inference_mode(), traceable(windowed=windowed):
        warnings.simplefilter("ignore")  # the tracer remarks on every constant that it finds
        traced = TorchScriptPythonDecoder(_Positional(model, function), example_input=tuple(example.values()))
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(traced))
    for port, (name, tensor) in zip(graph.inputs, example.items(), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1, *tensor.shape[2:]][: tensor.dim()]))
        port.get_node().set_element_type(openvino.Type.i64 if tensor.dtype == torch.int64 else openvino.Type.f32)
    graph.validate_nodes_and_infer_types()
    return graph


def _save(graph: openvino.Model, file: Path) -> None:
    openvino.save_model(graph, file, compress_to_fp16=False)


def _compare(model: "BaseModel", kind: Kind, converted: Path) -> None:
    """Hold what was converted against the model: tokens have to be equal, vectors and scores all but equal.

    Raises NotConvertible.
    """
    length = min(describe(model).max_length(None), _CHECKED_LENGTH)
    network: Network = OpenVinoNetwork(converted, Placement("openvino", "cpu", "float32"), length, 1)
    reference: Network = TorchNetwork(model, _REFERENCE, length, compiled=False)
    texts: list[list[Input]] = [list(_CHECKS)]
    texts += [[text] for text in _CHECKS]
    pairs: list[list[Input]] = [[(text, other) for text in _CHECKS[:2] for other in _CHECKS], [("red fish", "")]]
    facts = network.facts
    tasks: list[tuple[str, Task | None]] = [(facts.query_prompt, "query"), (facts.passage_prompt, "document")]
    if kind == "cross_encoder":
        texts, tasks = pairs, [(facts.query_prompt, None)]
    for (prompt, task), inputs in itertools.product(tasks, texts):
        ours, theirs = (one.tokenise(inputs, prompt, task) for one in (network, reference))
        if ours.ids != theirs.ids:
            raise NotConvertible("the tokenizer of this model gives other tokens by itself: set backend to torch")
        rows = np.arange(len(inputs))
        made, expected = network.run(ours.batch(rows), 1).result, reference.run(theirs.batch(rows), 1).result
        if kind == "encoder":
            agree = bool(np.min(np.sum(made * expected, axis=1)) >= _AGREEMENT)
        else:
            agree = bool(np.max(np.abs(made - expected)) <= _DIFFERENCE)
        if not agree:
            raise NotConvertible("what OpenVINO computes is not what this model does: set backend to torch")
