"""What acts in a running model's adapter changed in place: another adapter's weights, or how strongly it acts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from martlet.adapters.config import LoraConfig, is_taken
from martlet.adapters.files import adapter_folder, load_adapter, of_hub
from martlet.adapters.layers import LoraLinear
from martlet.adapters.model import PeftModel
from martlet.errors import ArgumentError, UnsupportedError

ALIKE = ("use_rslora", "lora_dropout", "alpha_pattern", "use_dora")  # what PEFT wants equal


def hotswap_adapter(
    model: PeftModel,
    model_name_or_path: str | os.PathLike[str],
    adapter_name: str,
    torch_device: str | None = None,
    **hub: Any,
) -> None:
    """Puts the adapter of a folder or "org/name" in the place of `adapter_name`, which keeps its name and its layers.

    The new one may have another rank and alpha, and fewer layers: the others then change nothing. ArgumentError for
    layers the old one does not have, and for another `use_rslora`, `use_dora`, `lora_dropout` or `alpha_pattern`; the
    old one is then as it was. `torch_device` changes nothing: weights go where the old ones are.
    """
    tuner = model.base_model
    tuner.check_names([adapter_name], 1)
    tuner.check_unmerged("hotswap_adapter")
    folder = adapter_folder(model_name_or_path, of_hub(hub))
    old, inner = tuner.peft_config[adapter_name], model.get_base_model()
    new = replace(LoraConfig.from_file(folder / "adapter_config.json"), inference_mode=old.inference_mode)
    for name in ALIKE:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            raise ArgumentError(
                "hotswap_adapter", f"needs an adapter of the same {name}", found=f"{after}, not {before}"
            )
    if new.modules_to_save or old.modules_to_save or new.trainable_token_indices or old.trainable_token_indices:
        raise ArgumentError(
            "hotswap_adapter", "swaps low-rank weights alone, not modules or tokens trained whole",
            remedy="load_adapter puts such an adapter beside this one, delete_adapter takes this one out.",
        )  # fmt: skip
    if is_taken(new.init_lora_weights) or is_taken(old.init_lora_weights):
        raise UnsupportedError(
            "hotswap_adapter", "an adapter that began with a part of the weights stays with its base"
        )
    beside = f"{adapter_name}_swapped_in"
    tuner.add_adapter(beside, new)
    try:
        load_adapter(folder, inner, beside, new)
        layers = [module for module in inner.modules() if isinstance(module, LoraLinear)]
        if any(module.knows(beside) and not module.knows(adapter_name) for module in layers):
            raise ArgumentError("hotswap_adapter", "the new adapter may not have layers that the old one lacks")
        for module in layers:
            if module.knows(adapter_name):
                _swap(module, adapter_name, beside)
        tuner.peft_config[adapter_name] = replace(
            old, r=new.r, lora_alpha=new.lora_alpha, rank_pattern=new.rank_pattern
        )
    finally:
        tuner.delete_adapter(beside)


def _swap(module: LoraLinear, old: str, new: str) -> None:
    with torch.no_grad():
        if not module.knows(new):
            module.b(old).zero_()
            return
        for into, out_of in zip(_weights(module, old), _weights(module, new), strict=True):
            if into.shape == out_of.shape:
                into.copy_(out_of)
            else:
                into.data = out_of.to(into.dtype)
                into.grad = None
        module.scaling[old], module.lora_alpha[old] = module.scaling[new], module.lora_alpha[new]


def _weights(module: LoraLinear, name: str) -> list[Any]:
    return [weight for owner, weight in module.weights() if owner == name]


@contextmanager
def rescale_adapter_scale(model: nn.Module, multiplier: float) -> Iterator[None]:
    """Inside, every adapter changes `multiplier` times as much. ArgumentError for a model without adapters."""
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
        raise ArgumentError("multiplier", "must be a number", found=repr(multiplier))
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    if not layers:
        raise ArgumentError("rescale_adapter_scale", "needs a model with adapters", found=type(model).__name__)
    before = [dict(module.scaling) for module in layers]
    for module in layers:
        module.scaling = {name: scaling * multiplier for name, scaling in module.scaling.items()}
    try:
        yield
    finally:
        for module, scaling in zip(layers, before, strict=True):
            module.scaling = scaling
