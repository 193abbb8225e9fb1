"""A new adapter out of others: their changes added up by weights, in PEFT's ways of saying it."""

# r rank

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from martlet.adapters.embeddings import TrainedTokens
from martlet.adapters.layers import LoraLinear, OwnCopy
from martlet.errors import ArgumentError, UnsupportedError

WAYS = ("svd", "linear", "cat")
OTHER_WAYS = (
    "ties", "ties_svd", "dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd", "magnitude_prune",
    "magnitude_prune_svd",
)  # fmt: skip


def add_weighted(
    model: Any, adapters: Sequence[str], weights: Sequence[float], name: str, way: str, svd_rank: int | None
) -> None:
    """Puts adapter `name` into `model`, the sum of `adapters`' changes by `weights`.

    "cat": exact, of the summed rank; "svd": the nearest of rank `svd_rank` (the largest of theirs); "linear": A and B
    added up by themselves, as PEFT does, which is the sum of the changes only where the adapters are alike.
    """
    _check(model, adapters, weights, way)
    configs: Mapping[str, Any] = model.peft_config
    ranks = [configs[each].r for each in adapters]
    rank = sum(ranks) if way == "cat" else (svd_rank or max(ranks))
    targets = [configs[each].target_modules for each in adapters]
    merged: Any = targets[0]
    if any(target != merged for target in targets):
        if any(isinstance(target, str) for target in targets):
            raise UnsupportedError(
                "add_weighted_adapter", "needs target_modules that are equal, or lists", found=targets
            )
        merged = sorted({each for target in targets for each in target})
    made = replace(
        configs[adapters[0]], r=rank, lora_alpha=rank, use_rslora=False, rank_pattern={}, alpha_pattern={},
        target_modules=merged, init_lora_weights=True, inference_mode=True,
    )  # fmt: skip
    model.add_adapter(name, made)
    with torch.no_grad():
        for module in model.base_model.modules():
            if isinstance(module, LoraLinear) and name in module.lora_A:
                parts = [
                    (each, weight) for each, weight in zip(adapters, weights, strict=True) if each in module.lora_A
                ]
                a, b = _joined(module, parts, rank, way)
                module.lora_A[name].zero_()[: len(a)] = a
                module.lora_B[name].zero_()[:, : b.shape[1]] = b


def _check(model: Any, adapters: Sequence[str], weights: Sequence[float], way: str) -> None:
    if way in OTHER_WAYS:
        raise UnsupportedError("combination_type", f"must be one of {', '.join(WAYS)}", found=repr(way))
    if way not in WAYS:
        raise ArgumentError("combination_type", f"must be one of {', '.join(WAYS)}", found=repr(way))
    if not adapters or len(adapters) != len(weights):
        raise ArgumentError(
            "add_weighted_adapter", "needs a weight for each adapter", found=f"{len(weights)} for {len(adapters)}"
        )
    for each in adapters:
        if each not in model.peft_config:
            raise ArgumentError("adapters", f"must be of {', '.join(model.peft_config)}", found=repr(each))
    for module in model.base_model.modules():
        kept = getattr(module, "modules_to_save", None) if isinstance(module, OwnCopy) else None
        kept = module.trainable_tokens_delta if isinstance(module, TrainedTokens) else kept
        magnitudes: Any = module.lora_magnitude_vector if isinstance(module, LoraLinear) else {}
        for each in adapters:
            if (kept is not None and each in kept) or each in magnitudes:
                raise UnsupportedError(
                    "add_weighted_adapter", "adds low-rank changes, not modules or tokens saved whole, nor DoRA's",
                    found=repr(each),
                )  # fmt: skip
    if way == "linear" and len({model.peft_config[each].r for each in adapters}) > 1:
        raise ArgumentError("combination_type", "'linear' needs adapters of one rank", remedy="Pass 'cat' or 'svd'.")


def _joined(module: LoraLinear, parts: Sequence[tuple[str, float]], rank: int, way: str) -> tuple[Tensor, Tensor]:
    scaled = [(module.lora_A[each], module.lora_B[each], weight * module.scaling[each]) for each, weight in parts]
    if way == "cat":
        return torch.cat([a * factor for a, _, factor in scaled]), torch.cat([b for _, b, _ in scaled], 1)
    if way == "linear":  # the root of a weight goes into each factor; a negative one's sign into A
        roots = [math.sqrt(abs(factor)) for _, _, factor in scaled]
        signs = [math.copysign(1.0, factor) for _, _, factor in scaled]
        a = sum(a * root * sign for (a, _, _), root, sign in zip(scaled, roots, signs, strict=True))
        b = sum(b * root for (_, b, _), root in zip(scaled, roots, strict=True))
        return a, b
    change = sum(b.float() @ a.float() * factor for a, b, factor in scaled)
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    kept = min(rank, len(sizes))
    return right[:kept], left[:, :kept] * sizes[:kept]
