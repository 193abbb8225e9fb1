"""What adapters there are in a model, where, and in what state: PEFT's reports, by its names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from martlet.adapters.embeddings import LoraEmbedding, TrainedTokens
from martlet.adapters.layers import LoraLinear
from martlet.errors import ArgumentError
from martlet.nn.packed import PackedLinear

IRREGULAR = "irregular"  # where layers, or weights of one, differ


@dataclass
class TunerLayerStatus:
    """One adapted layer. `quantization_backend` is the type of the base's blocks, None for floats."""

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, bool | str]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None


@dataclass
class TunerModelStatus:
    """All adapted layers of a model together; "irregular" where they differ."""

    base_model_type: str
    adapter_model_type: str
    peft_types: dict[str, str]
    trainable_params: int
    total_params: int
    num_adapter_layers: int
    enabled: bool | str
    active_adapters: list[str] | str
    merged_adapters: list[str] | str
    requires_grad: dict[str, bool | str]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None


def get_layer_status(model: Any) -> list[TunerLayerStatus]:
    """The state of each adapted layer, in the model's order. ArgumentError for a model without adapters."""
    found = [
        _status(path.removeprefix("base_model."), module)
        for path, module in model.named_modules()
        if isinstance(module, LoraLinear | TrainedTokens)
    ]
    if not found:
        raise ArgumentError("get_layer_status", "needs a model with adapters", found=type(model).__name__)
    return found


def get_model_status(model: Any) -> TunerModelStatus:
    """The state of a model's adapters, and how many weights learn. ArgumentError for a model without adapters."""
    layers = get_layer_status(model)
    trainable, every = model.get_nb_trainable_parameters()
    names = sorted({name for each in layers for name in each.available_adapters})
    merged = {name for each in layers for name in each.merged_adapters}
    is_partly = any(merged & set(each.available_adapters) - set(each.merged_adapters) for each in layers)
    active = [each.active_adapters for each in layers]
    backends = [each.quantization_backend for each in layers]
    return TunerModelStatus(
        base_model_type=type(model.get_base_model()).__name__,
        adapter_model_type="LoraModel",
        peft_types={name: config.peft_type for name, config in model.peft_config.items()},
        trainable_params=trainable,
        total_params=every,
        num_adapter_layers=len(layers),
        enabled=_same(each.enabled for each in layers),
        active_adapters=active[0] if all(each == active[0] for each in active) else IRREGULAR,
        merged_adapters=IRREGULAR if is_partly else sorted(merged),
        requires_grad={
            name: _same(each.requires_grad[name] for each in layers if name in each.requires_grad) for name in names
        },
        available_adapters=names,
        devices={name: sorted({device for each in layers for device in each.devices.get(name, ())}) for name in names},
        quantization_backend=backends[0] if len(set(backends)) == 1 else IRREGULAR,
    )


def _status(path: str, module: LoraLinear | TrainedTokens) -> TunerLayerStatus:
    weights: dict[str, list[Tensor]] = {}
    every = module.trainable_tokens_delta.items() if isinstance(module, TrainedTokens) else module.weights()
    for name, weight in every:
        weights.setdefault(name, []).append(weight)
    switch = module.switch
    base = module.base_layer
    return TunerLayerStatus(
        name=path,
        module_type="TrainableTokensLayer"
        if isinstance(module, TrainedTokens)
        else f"lora.{'Embedding' if isinstance(module, LoraEmbedding) else 'Linear'}",
        enabled=not switch.is_disabled,
        active_adapters=list(switch.active),
        merged_adapters=[name for name in switch.merged if name in weights],
        requires_grad={name: _same(each.requires_grad for each in held) for name, held in weights.items()},
        available_adapters=sorted(weights),
        devices={name: sorted({each.device.type for each in held}) for name, held in weights.items()},
        quantization_backend=base.kind if isinstance(base, PackedLinear) else None,
    )


def _same(values: Iterable[Any]) -> Any:
    found = set(values)
    return found.pop() if len(found) == 1 else IRREGULAR
