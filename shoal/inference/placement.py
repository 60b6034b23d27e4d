"""Which library computes a model, on which device and in which precision."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgument
from shoal.settings import InferenceSettings
from shoal.system import machine

_BACKENDS = ("openvino", "torch")
"""Libraries that compute networks, the quicker one on CPUs first."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, its Tegra, AMD and WSL put there."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What computes a model (`torch` or `openvino`), where (`cpu` or `cuda`) and in which precision."""

    backend: str
    device: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.backend} on {self.device} in {self.dtype}"


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
    _check_backend(backend, device, dtype)
    if dtype == "auto":
        dtype = "float16" if device == "cuda" else "bfloat16" if has_bfloat16() else "float32"
    return Placement(backend, device, dtype)


def _check_backend(backend: str, device: str, dtype: str) -> None:
    """Raise InvalidArgument for what a backend cannot do, or is not installed for."""
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
