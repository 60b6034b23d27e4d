"""What models beside an encoder have in common, learned sparse ones and those with a vector for each token.

torch computes them, also where OpenVINO computes the encoder.
"""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.encoders import Encoder
from shoal.errors import ModelUnavailable
from shoal.inference import models
from shoal.inference.placement import Placement, place
from shoal.settings import InferenceSettings

_TELLING = (
    "pooling_strategy",
    "activation_function",
    "k",
    "skiplist_words",
    "skiplist_tasks",
    "keep_only_token_ids",
    "pool_factor",
    "num_protected_tokens",
)
"""Attributes of modules that decide what becomes of a text, beside weights."""


def locate(model: str, option: str) -> tuple[models.ModelLocation, Path]:
    """Find a model and its folder, by local path or hub name.

    Raises ModelUnavailable, naming the option that says where it lies.
    """
    try:
        location = models.resolve(model)
        return location, location.fetch()
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"the {option.replace('_', ' ')}: {error.message}; set {option} to where the same model lies here",
            param=option,
        ) from error


def place_on_torch(settings: InferenceSettings, folder: Path) -> Placement:
    """Settle device and precision of the model in a folder. Raises InvalidArgument for what this machine lacks."""
    placement = place(settings.model_copy(update={"backend": "torch"}))
    if settings.dtype == "auto" and placement.dtype == "float16" and models.trained_dtype(folder) == "bfloat16":
        return replace(placement, dtype="bfloat16")
    return placement


def without_int8(settings: InferenceSettings) -> InferenceSettings:
    """The settings of a model beside an encoder that OpenVINO may compute in int8, which torch does not."""
    return settings.model_copy(update={"dtype": "auto"}) if settings.dtype == "int8" else settings


def extend(encoder: Encoder, addition: type, **attributes: Any) -> Any:
    """Return an encoder as one that also has the methods of a class, and whatever else it could do before.

    Its class is extended: what an encoder can do is told by its methods, and a wrapper would have to repeat them all.

    Args:
        encoder: Stays as it is.
        addition: Its methods come before those of the encoder.
        attributes: Those that they need.
    """
    both: Any = copy(encoder)
    both.__class__ = type(f"{type(encoder).__name__}{addition.__name__}", (addition, type(encoder)), {})
    for name, value in attributes.items():
        setattr(both, name, value)
    return both


def prompt_of(prompts: Mapping[str, str | None], *names: str) -> str:
    """The first of these prompts that is there; empty without one."""
    return next((prompt for name in names if (prompt := prompts.get(name))), "")


def describe_modules(modules: Iterable[Any]) -> str:
    """Name modules with what decides how they compute."""
    return "+".join(map(_describe_module, modules))


def _describe_module(module: Any) -> str:
    name = type(module).__name__.lower()
    if (parts := getattr(module, "sub_modules", None)) is not None:
        told = [f"{task}={describe_modules(parts[task])}" for task in sorted(parts)]
    else:
        values = (getattr(module, key, None) for key in _TELLING)
        told = [
            " ".join(map(str, value)) if isinstance(value, list) else str(value)
            for value in values
            if value is not None and value != []
        ]
    return f"{name}({','.join(told)})" if told else name
