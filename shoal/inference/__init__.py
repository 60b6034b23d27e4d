"""How models compute: which library, device and precision, and forward passes batched by token budget.

Importing this imports neither torch nor OpenVINO, and a model that has been converted for OpenVINO runs without torch:
importing that takes seconds in every process.
"""

import importlib.util
import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from shoal.errors import InvalidArgument, ModelUnavailable
from shoal.inference.network import Kind, Network
from shoal.settings import InferenceSettings
from shoal.system import machine

_BACKENDS = ("openvino", "torch")
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, its Tegra, AMD and WSL put there."""

# OpenVINO reports every import to its makers over the network, unless the module that does so is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """What computes a model (`torch` or `openvino`), where (`cpu` or `cuda`) and in which precision."""

    backend: str
    device: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.backend} on {self.device} in {self.dtype}"


class NotConvertible(Exception):
    """OpenVINO cannot compute this model, torch may. Says why, and what to set."""


def place(settings: InferenceSettings) -> Placement:
    """Settle `backend`, `device` and `dtype` for this machine.

    auto means: a GPU, if torch sees one, with torch in float16; else OpenVINO where it is installed, else torch; in
    bfloat16 where the processor multiplies it natively, else float32. Raises InvalidArgument for what cannot be had.
    """
    backend, device, dtype = settings.backend, settings.device, settings.dtype
    if backend not in ("auto", *_BACKENDS):
        raise InvalidArgument(f"backend={backend!r}: use auto or one of {', '.join(_BACKENDS)}", param="backend")
    if device == "cuda" and not has_gpu():
        raise InvalidArgument(
            "device=cuda, but torch sees no GPU: install a CUDA build of torch, or set device to auto or cpu",
            param="device",
        )
    if device == "auto":
        device = "cuda" if backend != "openvino" and dtype != "int8" and has_gpu() else "cpu"
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


def has_gpu() -> bool:
    """Whether torch sees a GPU; it is imported only where there is a driver of one."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def has_openvino() -> bool:
    """Whether OpenVINO is installed; found, not imported."""
    return importlib.util.find_spec("openvino") is not None


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX); elsewhere it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & machine.cpu_flags())


def load_network(
    kind: Kind, folder: Path, weights: str, settings: InferenceSettings, max_length: int | None, threads: int
) -> Network:
    """Load the model in a folder for what the settings name.

    weights: digest of its weights. max_length: tokens read of a text; None takes the model's own. threads: CPU threads.
    Raises ModelUnavailable when it cannot be loaded, InvalidArgument for a backend, device, precision or length that it
    or this machine lacks.
    """
    # The tokenizers library takes its number of threads from the environment, once a process.
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    placement = place(settings)
    if placement.backend == "openvino":
        from shoal.inference.openvino_network import OpenVinoNetwork

        try:
            cache = Path(settings.model_cache_dir).expanduser()
            return OpenVinoNetwork.load(kind, folder, weights, cache, placement, max_length, threads)
        except NotConvertible as error:
            if settings.backend != "auto" or placement.dtype == "int8":
                raise ModelUnavailable(str(error)) from error
            _log.warning("%s; auto falls back to torch", error)
            placement = replace(placement, backend="torch")
    from shoal.inference.torch_network import TorchNetwork, load_model

    model = load_model(kind, folder, placement, threads)
    return TorchNetwork(model, placement, max_length, compiled=settings.torch_compile)
