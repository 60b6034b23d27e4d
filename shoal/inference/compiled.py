"""Graphs compiled for OpenVINO's CPU plugin, kept with the converted model: compiling anew takes three times as long.

What is kept is the graph as the plugin has optimised it, half a megabyte; the weights stay in the converted model. Its
name has all that decides what the plugin makes of a graph, and its digest stands before it.
"""

import hashlib
import io
import json
import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import openvino

from shoal.system.machine import cpu_flags

FOLDER = "compiled"
"""Folder of compiled graphs in that of a converted model, whose digests leave it out."""
MOST_KEPT = 32
"""Compiled graphs that are kept of one converted model: each version of OpenVINO, processor and option, such as the
number of threads, has its own, and nobody asks again for those of an OpenVINO that was replaced."""
_DIGEST = hashlib.sha256().digest_size
"""Bytes of the digest before a compiled graph."""
_WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}
"""Option of the plugin by which weights are left out of what is kept."""

_log = logging.getLogger(__name__)


def compile_graph(
    core: openvino.Core, graph: Path, options: Mapping[str, Any], *, kept: bool
) -> openvino.CompiledModel:
    """Compile a graph of a converted model for the CPU, or take what a process before this one has made of it.

    Args:
        core: OpenVINO.
        graph: Its file, `NAME.xml` beside `NAME.bin`.
        options: Of the plugin.
        kept: Whether it is looked for and kept, where the disk takes it.

    Raises:
        OSError, RuntimeError: The graph cannot be read.
    """
    if not kept:
        return core.compile_model(core.read_model(graph), "CPU", dict(options))
    file = graph.parent / FOLDER / f"{graph.stem}-{_key(core, graph, options)}.blob"
    options = {**options, **_WEIGHTLESS}
    if (blob := _read(file)) is not None:
        try:
            return core.import_model(
                io.BytesIO(blob), "CPU", {**options, "WEIGHTS_PATH": str(graph.with_suffix(".bin"))}
            )
        except RuntimeError as error:
            _log.warning("the compiled graph %s cannot be read (%s): it is made anew", file, error)
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    exported = io.BytesIO()
    compiled.export_model(exported)
    _keep(file, exported.getvalue())
    return compiled


def _key(core: openvino.Core, graph: Path, options: Mapping[str, Any]) -> str:
    """Name what decides what the plugin makes of a graph: this, itself, the processor, and the options."""
    processor = [core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(cpu_flags())]
    content = hashlib.sha256(graph.read_bytes()).hexdigest()
    identity = [openvino.get_version(), processor, content, sorted(options.items())]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def _read(file: Path) -> bytes | None:
    """Return a compiled graph; None if there is none, or not the one that was kept."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        _log.warning("the compiled graph %s is damaged: it is made anew", file)
        return None
    with suppress(OSError):  # on a read-only disk, where none is removed either
        os.utime(file)
    return data[_DIGEST:]


def _keep(file: Path, blob: bytes) -> None:
    """Keep a compiled graph; readers see all of it or nothing. A disk that takes none only costs time."""
    scratch = file.with_name(f"{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(exist_ok=True)
        try:
            scratch.write_bytes(hashlib.sha256(blob).digest() + blob)
            scratch.replace(file)
        finally:
            scratch.unlink(missing_ok=True)
        _remove_oldest(file.parent)
    except OSError as error:
        _log.info("the compiled graph %s is not kept: %s", file, error)


def _remove_oldest(folder: Path) -> None:
    """Remove the compiled graphs that were asked for longest ago, beyond MOST_KEPT. Whoever computes with one needs no
    file any more. Raises OSError."""
    asked = []
    for file in folder.glob("*.blob"):
        with suppress(FileNotFoundError):  # another process does the same
            asked.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(asked)[:-MOST_KEPT]:
        file.unlink(missing_ok=True)
