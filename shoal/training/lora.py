"""LoRA adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") by the peft library."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel


class Adapters:
    """Adapters on all linear layers of a model's transformer; of its own weights only those of a head are trained."""

    def __init__(self, model: "BaseModel", rank: int) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        transformer: Any = model.transformers_model
        head = [
            parameter
            for name, module in transformer.named_children()
            if module is not transformer.base_model and transformer.base_model is not transformer
            for parameter in module.parameters()
        ]
        model.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
        self._adapted = LoraModel(transformer, config, "default")
        for parameter in head:
            parameter.requires_grad_(True)

    def merge(self) -> None:
        """Add the adapters to the weights that they adapt and remove them."""
        self._adapted.merge_and_unload()
