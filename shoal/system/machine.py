"""What this machine is: what a measured number belongs to, and what its processor can do."""

import contextlib
import os
import platform
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how much processor time the processes of this container get: quota and period in microseconds."""

GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""Where drivers of GPUs are reached: of NVIDIA, of AMD, and of either under WSL."""


def describe() -> str:
    """Describe this machine: processor, cores, memory."""
    cpu = _cpuinfo("model name") or platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB"


def may_have_gpu() -> bool:
    """Whether this machine has a device by which a driver of NVIDIA or AMD is reached, as WSL has it too."""
    return any(device.exists() for device in GPU_DEVICES)


def usable_cores() -> int:
    """Count the cores that this process may use, 1 at least: a container often has fewer than its machine.

    Both its CPU affinity and the quota of its control group (version 2) bound them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text().split()  # "max 100000" without a limit
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def cpu_flags() -> set[str]:
    """Name what the processor can do, as Linux names it, such as avx512_bf16; empty elsewhere."""
    return set(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """Read the first value of a key in Linux's description of the processor; empty if there is none."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")
