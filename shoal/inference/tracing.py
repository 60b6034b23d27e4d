"""What the tracer of torch and OpenVINO need of the attention of transformers, so that they compute what it does."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from transformers import masking_utils

_EXPANSION, _INDEXING = "_vmap_expansion_sdpa", "TransformGetItemToIndex"
"""Private names in transformers: how a mask is made of a function of four indices by `torch.vmap`, and what that needs
for indexing. Neither can be traced."""


@contextmanager
def traceable(*, windowed: bool) -> Iterator[None]:
    """Have transformers compute its attention inside this in a way that can be traced and converted.

    Args:
        windowed: Whether tokens read only those near them. A token of padding then may have none to read, which torch
            answers with zeros and OpenVINO with what is no number; here it reads all.
    """
    with ExitStack() as stack:
        if windowed:
            functional = torch.nn.functional
            attend = _reading_something(functional.scaled_dot_product_attention)
            stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", attend))
        if hasattr(masking_utils, _EXPANSION) and hasattr(masking_utils, _INDEXING):  # else such a model fails to trace
            stack.enter_context(mock.patch.object(masking_utils, _EXPANSION, _broadcast))
            stack.enter_context(mock.patch.object(masking_utils, _INDEXING, nullcontext))
        yield


def is_windowed(config: Any) -> bool:
    """Whether a layer of the model with this configuration reads only tokens near each."""
    layers = getattr(config, "layer_types", None) or ()
    return "sliding_attention" in layers or bool(getattr(config, "sliding_window", None))


def _broadcast(mask_function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Make a mask of a function of four indices by broadcasting: such functions are made of comparisons."""

    def mask(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return mask_function(
            batch[:, None, None, None], head[None, :, None, None], query[None, None, :, None], key[None, None, None, :]
        )

    return mask


def _reading_something(attend: Callable[..., torch.Tensor]) -> Any:
    def guarded(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = attn_mask | ~attn_mask.any(-1, keepdim=True)
        return attend(query, key, value, attn_mask=attn_mask, **options)

    return guarded
