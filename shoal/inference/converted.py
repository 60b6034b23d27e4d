"""Models that were converted for OpenVINO, kept on disk: each is converted once, when it is first loaded.

A converted model lies under a digest of its weights, its configuration and the versions of what converts it.
"""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from shoal.inference import models
from shoal.inference.network import Kind
from shoal.inference.openvino_network import OpenVinoNetwork
from shoal.inference.placement import Placement

_CONVERTERS = ("openvino", "sentence-transformers", "transformers", "tokenizers", "torch")
"""Packages whose versions decide what a conversion gives."""
_LAYOUT = "1"
"""Number of the layout of a converted model's folder; a change of it has every model converted again."""


def load_converted(
    kind: Kind,
    folder: Path,
    weights: str,
    cache: Path,
    placement: Placement,
    max_length: int | None,
    threads: int,
) -> OpenVinoNetwork:
    """Open what was converted of the model in a folder; convert it first if it is not in the cache.

    weights: digest of the model's weights. cache: folder of converted models. The rest as of __init__.
    Raises NotConvertible when OpenVINO cannot compute the model, ModelUnavailable when it cannot be loaded,
    InvalidArgument for a length that it cannot read.
    """
    converted = cache_folder(cache, kind, folder, weights)
    rounded = converted.with_name(f"{converted.name}-int8") if placement.dtype == "int8" else converted
    if not rounded.exists():
        from shoal.inference import conversion

        if not converted.exists():
            conversion.convert(kind, folder, converted, threads)
        if rounded != converted:
            conversion.round_weights(converted, rounded)
    return OpenVinoNetwork(rounded, placement, max_length, threads)


def cache_folder(cache: Path, kind: Kind, folder: Path, weights: str) -> Path:
    """Name the folder of a converted model: by all that decides what it computes, and by what converts it."""
    identity = [_LAYOUT, kind, weights, models.configuration_digest(folder)]
    identity += map(importlib.metadata.version, _CONVERTERS)
    return cache / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
