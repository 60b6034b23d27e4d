"""Whether a model that has to be converted can be kept, found out before anything is started."""

from shoal.errors import InvalidArgument
from shoal.inference import models
from shoal.inference.digests import is_whole
from shoal.inference.network import Kind
from shoal.inference.placement import place
from shoal.settings import InferenceSettings
from shoal.system.folders import home_path, require_writable

OPTION = "--model-cache-dir"
"""Option that names the folder of converted models."""


def require_model_cache(kind: Kind, name: str, settings: InferenceSettings) -> None:
    """Check that a model is in the folder of converted models, or can be put there; nothing else is converted.

    Args:
        kind: What the model is used as.
        name: Preset, local path or hub name of the model.
        settings: How it shall compute.

    Raises:
        InvalidArgument: The folder cannot be written and does not hold the model, or the settings cannot be had.
        ModelUnavailable: The model is not to be had.
    """
    if settings.backend not in ("auto", "openvino"):
        return
    try:
        require_writable(settings.model_cache_dir, OPTION)
    except InvalidArgument as error:
        placement = place(settings)  # only now: where there is a GPU, this imports torch
        if placement.backend != "openvino" or _is_converted(kind, name, settings, rounded=placement.dtype == "int8"):
            return
        raise InvalidArgument(
            f"{error.message}: the model {name} is converted and kept there; --backend torch needs no such folder",
            param=OPTION,
        ) from None


def _is_converted(kind: Kind, name: str, settings: InferenceSettings, *, rounded: bool) -> bool:
    from shoal.inference.converted import cache_folder  # imports OpenVINO, which takes a second

    location = models.resolve(name)
    folder = location.fetch()
    converted = cache_folder(home_path(settings.model_cache_dir, OPTION), kind, folder, location.digest(folder))
    return is_whole(converted.with_name(f"{converted.name}-int8") if rounded else converted)
