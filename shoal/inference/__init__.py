"""How models compute: which library, device and precision, and forward passes batched by token budget.

Importing this imports neither torch nor OpenVINO, and a model that has been converted for OpenVINO runs without torch:
importing that takes seconds in every process.
"""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from shoal.errors import ModelUnavailable
from shoal.inference import models
from shoal.inference.network import Kind, Network, NotConvertible
from shoal.inference.placement import Placement, place
from shoal.settings import InferenceSettings
from shoal.system.folders import home_path

# OpenVINO reports every import to its makers over the network, unless the module that does so is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_log = logging.getLogger(__name__)


def _in_range(placement: Placement, settings: InferenceSettings, folder: Path) -> Placement:
    """Take bfloat16 instead of float16 on a GPU, unless float16 is asked for, of a model that was trained in it.

    Its activations may exceed what float16 can hold, as those of Gemma and of larger Qwen models do.
    """
    if settings.dtype == "auto" and placement.dtype == "float16" and models.trained_dtype(folder) == "bfloat16":
        return replace(placement, dtype="bfloat16")
    return placement


def load_network(
    kind: Kind, folder: Path, weights: str, settings: InferenceSettings, max_length: int | None, threads: int
) -> Network:
    """Load the model in a folder for what the settings name.

    Args:
        weights: Digest of its weights.
        max_length: Tokens read of a text; None takes the model's own.
        threads: CPU threads.

    Raises:
        ModelUnavailable: It cannot be loaded.
        InvalidArgument: A backend, device, precision or length that it or this machine lacks.
    """
    # The tokenizers library takes its number of threads from the environment, once a process.
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    placement = _in_range(place(settings), settings, folder)
    if placement.backend == "openvino":
        from shoal.inference.converted import load_converted

        try:
            cache = home_path(settings.model_cache_dir, "--model-cache-dir")
            return load_converted(kind, folder, weights, cache, placement, max_length, threads)
        except NotConvertible as error:
            if settings.backend != "auto" or placement.dtype == "int8":
                raise ModelUnavailable(str(error)) from error
            _log.warning("%s; auto falls back to torch", error)
            placement = replace(placement, backend="torch")
    from shoal.inference.torch_network import TorchNetwork, load_model

    model = load_model(kind, folder, placement, threads)
    return TorchNetwork(model, placement, max_length, compiled=settings.torch_compile)
