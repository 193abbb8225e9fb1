"""A new adapter out of others: their changes added up by weights, in PEFT's ways of saying it."""

# r rank

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from martlet.adapters.embeddings import TrainedTokens
from martlet.adapters.layers import LoraLinear, OwnCopy
from martlet.errors import ArgumentError, UnsupportedError

MIXES = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")  # of A and B by themselves
OF_CHANGES = ("svd", *(f"{mix}_svd" for mix in MIXES[1:]))  # of s B A, and the nearest of a rank to that
WAYS = ("cat", *MIXES, *OF_CHANGES)
SIGNS = ("total", "frequency")


@dataclass(frozen=True, slots=True)
class Mixing:
    """How changes become one: PEFT's words."""

    way: str = "svd"
    svd_rank: int | None = None
    svd_clamp: float | None = None
    svd_driver: str | None = None
    density: float | None = None
    majority_sign_method: str = "total"

    @property
    def mix(self) -> str:
        """The way without its ending: "linear" for "svd"."""
        return "linear" if self.way == "svd" else self.way.removesuffix("_svd")


def add_weighted(model: Any, adapters: Sequence[str], weights: Sequence[float], name: str, mixing: Mixing) -> None:
    """Puts adapter `name` into `model`, made of `adapters`' changes by `weights`.

    "cat": their sum, exact, of the summed rank; "svd": the nearest to it of rank `svd_rank` (the largest of theirs);
    "linear": A and B added up by themselves, as PEFT does, which is the sum only where the adapters are alike. Of each
    A and B, or with "_svd" of each change, "magnitude_prune" keeps the share `density` of largest size, "dare_linear"
    (Yu et al. 2023) a random share made larger by as much; "ties" (Yadav et al. 2023) and "dare_ties" then take the
    mean of those whose sign is that of their sum ("total") or of most ("frequency").
    """
    way = mixing.way
    _check(model, adapters, weights, mixing)
    configs: Mapping[str, Any] = model.peft_config
    ranks = [configs[each].r for each in adapters]
    rank = sum(ranks) if way == "cat" else max(ranks) if way in MIXES else (mixing.svd_rank or max(ranks))
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
            if isinstance(module, LoraLinear) and module.knows(name):
                parts = [(each, weight) for each, weight in zip(adapters, weights, strict=True) if module.knows(each)]
                a, b = _joined(module, parts, rank, mixing)
                module.a(name).zero_()[: len(a)] = a
                module.b(name).zero_()[:, : b.shape[1]] = b


def _check(model: Any, adapters: Sequence[str], weights: Sequence[float], mixing: Mixing) -> None:
    way = mixing.way
    if way not in WAYS:
        raise ArgumentError("combination_type", f"must be one of {', '.join(WAYS)}", found=repr(way))
    if mixing.mix not in ("cat", "linear") and not (mixing.density and 0 < mixing.density <= 1):
        raise ArgumentError("density", f"{way!r} needs the share of numbers to keep, over 0 to 1", found=mixing.density)
    if mixing.majority_sign_method not in SIGNS:
        raise ArgumentError(
            "majority_sign_method", f"must be one of {', '.join(SIGNS)}", found=repr(mixing.majority_sign_method)
        )
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
    if way in MIXES and len({model.peft_config[each].r for each in adapters}) > 1:
        raise ArgumentError(
            "combination_type", f"{way!r} needs adapters of one rank",
            remedy=f"Pass 'cat' or {'svd' if way == 'linear' else way + '_svd'!r}.",
        )  # fmt: skip


def _joined(module: LoraLinear, parts: Sequence[tuple[str, float]], rank: int, mixing: Mixing) -> tuple[Tensor, Tensor]:
    factors = [weight * module.scaling[each] for each, weight in parts]
    every_a, every_b = [module.a(each) for each, _ in parts], [module.b(each) for each, _ in parts]
    if mixing.way == "cat":
        return torch.cat([a * each for a, each in zip(every_a, factors, strict=True)]), torch.cat(every_b, 1)
    if mixing.way in MIXES:  # the root of a weight goes into each factor; a negative one's sign into A
        roots = [math.sqrt(abs(each)) for each in factors]
        signed = [math.copysign(root, each) for root, each in zip(roots, factors, strict=True)]
        return _mixed(every_a, signed, mixing), _mixed(every_b, roots, mixing)
    changes = [module.change(each) for each, _ in parts]
    change = _mixed(changes, [weight for _, weight in parts], mixing)
    left, sizes, right = torch.linalg.svd(change, full_matrices=False, driver=mixing.svd_driver)
    kept = min(rank, len(sizes))
    a, b = right[:kept], left[:, :kept] * sizes[:kept]
    if mixing.svd_clamp is not None:
        most = torch.quantile(torch.cat([b.flatten(), a.flatten()]), mixing.svd_clamp)
        a, b = a.clamp(-most, most), b.clamp(-most, most)
    return a, b


def _mixed(tensors: Sequence[Tensor], weights: Sequence[float], mixing: Mixing) -> Tensor:
    """One of several tensors of a shape."""
    mix, density = mixing.mix, mixing.density
    if mix != "linear" and density is not None and density < 1:
        thin = _drawn if mix.startswith("dare") else _largest
        tensors = [thin(each, density) for each in tensors]
    every = torch.stack(list(tensors))
    weighted = every * torch.tensor(weights, dtype=every.dtype, device=every.device).view(-1, 1, 1)
    if not mix.endswith("ties"):
        return weighted.sum(0)
    votes = every.sum(0) if mixing.majority_sign_method == "total" else every.sign().sum(0)
    agrees = every.sign() == torch.where(votes >= 0, 1, -1)
    return (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def _largest(tensor: Tensor, density: float) -> Tensor:
    flat = tensor.flatten()
    kept = flat.abs().topk(int(density * flat.numel())).indices
    return torch.zeros_like(flat).index_copy_(0, kept, flat[kept]).view_as(tensor)


def _drawn(tensor: Tensor, density: float) -> Tensor:
    """Numbers kept by chance, from torch's generator."""
    return tensor * torch.bernoulli(torch.full_like(tensor, density)) / density
