"""LoftQ (Li et al. 2023) on a base in blocks: an adapter begins with what the blocks have rounded away."""

# O rows out, I columns in, r rank

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from martlet.adapters.files import is_own
from martlet.adapters.layers import LoraLinear
from martlet.adapters.model import PeftModel
from martlet.checkpoint import open_checkpoint
from martlet.errors import ArgumentError
from martlet.nn.load import own_name, read_tensor
from martlet.nn.packed import PackedLinear


def replace_lora_weights_loftq(
    peft_model: PeftModel,
    model_path: str | os.PathLike[str] | None = None,
    adapter_name: str = "default",
    callback: Callable[[nn.Module, str], bool] | None = None,
) -> None:
    """Gives an adapter on matrices in blocks (`quantize=`, a GGUF file's) the first r singular directions of what each
    lacks of its floats: s B A is the matrix of rank r nearest to W - Q.

    The floats are read from `model_path`, a folder, a file in one or "org/name", by default from where the base came.
    `callback`, called with the model and a matrix's name after each, says by False that the weights before were better.
    """
    if not isinstance(peft_model, PeftModel) or not is_own(peft_model.get_base_model()):
        raise ArgumentError(
            "replace_lora_weights_loftq", "needs a model of martlet's with adapters", found=type(peft_model).__name__
        )
    peft_model.base_model.check_names([adapter_name], 1)
    peft_model.base_model.check_unmerged("replace_lora_weights_loftq")
    model = peft_model.get_base_model()
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LoraLinear) and isinstance(module.base_layer, PackedLinear) and module.knows(adapter_name)
    }
    if not layers:
        raise ArgumentError(
            "replace_lora_weights_loftq", f"needs an adapter {adapter_name!r} on matrices in blocks", found="none",
            remedy="Load the base with quantize='int4'.",
        )  # fmt: skip
    with torch.no_grad():
        for path, weight_OI in _floats(model, model_path or model.name_or_path, list(layers)):
            layer = layers[path]
            a, b = layer.a(adapter_name), layer.b(adapter_name)
            before = (a.clone(), b.clone()) if callback is not None else None
            first = _nearest(weight_OI - layer.weight.to(weight_OI.device), len(a), layer.scaling[adapter_name])
            a.copy_(first[0])
            b.copy_(first[1])
            if callback is not None and before is not None and not callback(peft_model, path):
                a.copy_(before[0])
                b.copy_(before[1])


def _nearest(lacking_OI: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A and B of s B A, the matrix of a rank nearest to another; the roots of its sizes in each."""
    left, sizes, right = torch.linalg.svd(lacking_OI, full_matrices=False)
    a, b = lacking_OI.new_zeros(rank, lacking_OI.shape[1]), lacking_OI.new_zeros(lacking_OI.shape[0], rank)
    root = (sizes[:rank] / scaling).sqrt()
    a[: len(root)], b[:, : len(root)] = root[:, None] * right[:rank], left[:, :rank] * root
    return a, b


def _floats(model: Any, name_or_path: str | os.PathLike[str], paths: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The matrices of a checkpoint as it stores them, float32, by the module's paths."""
    if str(name_or_path).endswith((".safetensors", ".safetensors.index.json")):
        name_or_path = os.path.dirname(name_or_path) or "."
    opened = open_checkpoint(name_or_path, config=model.config)
    source = opened.open_weights(None)
    pieces = {own_name(model, name): piece for name, piece in opened.locate(source, model.parts).items()}
    for path in paths:
        piece = pieces[f"{path}.weight"]
        if not read_tensor(source, piece.source).is_floating_point() or source.info(piece.source).dtype not in FLOATS:
            raise ArgumentError(
                "model_path", "must hold the weights as floats", found=source.info(piece.source).dtype,
                remedy="Pass the folder the blocks were made from.",
            )  # fmt: skip
        yield path, piece.take(read_tensor(source, piece.source).float()).contiguous()


FLOATS = ("F64", "F32", "F16", "BF16")
