"""Norms, in float32 whatever the weights are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from martlet.arch import Arch, Norm
from martlet.nn.lean import rms_norm


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * w, or * (1 + w) where the checkpoint stores w - 1."""

    def __init__(self, size: int, arch: Arch) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = arch.norm_eps
        self.plus_one = arch.norm is Norm.RMS_PLUS_ONE

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() + 1 if self.plus_one else self.weight.float()
        return rms_norm(x.float(), weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * w + b."""

    def __init__(self, size: int, arch: Arch) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = arch.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        wide = nn.functional.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), self.eps)
        return wide.to(x.dtype)


def build_norm(arch: Arch, size: int) -> RMSNorm | LayerNorm:
    """The norm an `arch` asks for."""
    return LayerNorm(size, arch) if arch.norm is Norm.LAYER else RMSNorm(size, arch)
