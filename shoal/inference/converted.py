"""Models that were converted for OpenVINO, kept on disk: each is converted once, when it is first loaded.

A converted model lies under a digest of its weights, its configuration and the versions of what converts it. Among
its files are their digests, which are compared whenever it is loaded: a flipped bit would change vectors in silence.
"""

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from shoal.inference import models
from shoal.inference.digests import is_whole, not_kept
from shoal.inference.network import Kind
from shoal.inference.openvino_network import OpenVinoNetwork
from shoal.inference.placement import Placement
from shoal.system.locks import exclusive

_CONVERTERS = ("openvino", "sentence-transformers", "transformers", "tokenizers", "torch")
"""Packages whose versions decide what a conversion gives."""
_LAYOUT = "1"
"""Number of the layout of a converted model's folder; a change of it has every model converted again."""

_log = logging.getLogger(__name__)


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

    Parameters that are not named here are those of `shoal.inference.load_network`.

    Args:
        weights: Digest of the model's weights.
        cache: Folder of converted models.

    Raises:
        NotConvertible: OpenVINO cannot compute the model.
        ModelUnavailable: It cannot be loaded.
        InvalidArgument: A length that it cannot read.
    """
    converted = cache_folder(cache, kind, folder, weights)

    def convert(into: Path) -> None:
        from shoal.inference import conversion

        conversion.convert(kind, folder, into, threads)

    def round_weights(into: Path) -> None:
        from shoal.inference import conversion

        _made(converted, convert)
        conversion.round_weights(converted, into)

    if placement.dtype == "int8":
        rounded = _made(converted.with_name(f"{converted.name}-int8"), round_weights)
        return OpenVinoNetwork(rounded, placement, max_length, threads, kept=True)
    return OpenVinoNetwork(_made(converted, convert), placement, max_length, threads, kept=True)


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, made first unless it is there and whole. One process makes it, others wait.

    Raises ModelUnavailable when the disk does not take it.
    """
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.with_name(f"{folder.name}.lock")):
            if not is_whole(folder):
                if folder.exists():
                    _log.warning("the converted model in %s is damaged or has no digests: it is made anew", folder)
                    shutil.rmtree(folder)
                make(folder)
    except OSError as error:
        raise not_kept(folder, error) from error
    return folder


def cache_folder(cache: Path, kind: Kind, folder: Path, weights: str) -> Path:
    """Name the folder of a converted model: by all that decides what it computes, and by what converts it."""
    identity = [_LAYOUT, kind, weights, models.configuration_digest(folder)]
    identity += map(importlib.metadata.version, _CONVERTERS)
    return cache / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
