"""Formulas between matrix products, that keep their inputs for the backward pass and compute the rest again there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _RMSNorm(torch.autograd.Function):
    """y = x r w, r = 1 / sqrt(mean(x^2) + eps). Keeps x and r: autograd would keep x r, and x once more, as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, r, weight)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, r, weight = ctx.saved_tensors
        normed = x * r
        product = grad * normed
        grad_w = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_w, None
        # dx = r (g w - normed mean(g w normed)); mean(g w normed) is a product with w
        mean = torch.mv(product.flatten(0, -2), weight).div_(weight.numel()).view_as(r)
        return (grad * weight).sub_(normed.mul_(mean)).mul_(r), grad_w, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * w along the last dimension, float32."""
    apply: Any = _RMSNorm.apply
    out: Tensor = apply(x, weight, eps)
    return out


class _GatedSilu(torch.autograd.Function):
    """y = silu(g) u. Keeps g and u: autograd would keep silu(g) as well."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensors
        grad_gate = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        if ctx.needs_input_grad[1]:
            grad_up = F.silu(gate).mul_(grad)
        return grad_gate, grad_up


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape and dtype."""
    apply: Any = _GatedSilu.apply
    out: Tensor = apply(gate, up)
    return out


class _GatedProduct(torch.autograd.Function):
    """y = (silu(g) u) W' + b. Keeps g and u, in the weight's dtype: autograd would keep silu(g) u as well."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate.to(weight.dtype), up.to(weight.dtype), weight)
        ctx.has_bias = bias is not None
        mixed = F.silu(gate).mul_(up)
        return F.linear(mixed, weight.to(gate.dtype), None if bias is None else bias.to(gate.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        gate, up = gate.to(grad.dtype), up.to(grad.dtype)
        grad_gate = grad_up = grad_w = grad_b = None
        silu = F.silu(gate)
        if ctx.needs_input_grad[2]:
            flat = grad.flatten(0, -2)
            grad_w = (flat.T @ (silu * up).flatten(0, -2)).to(weight.dtype)
        if ctx.has_bias and ctx.needs_input_grad[3]:
            grad_b = grad.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            grad_mixed = grad @ weight.to(grad.dtype)
            grad_up = silu.mul_(grad_mixed)
            grad_gate = torch.ops.aten.silu_backward(grad_mixed.mul_(up), gate)
        return grad_gate, grad_up, grad_w, grad_b


def gated_product(gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(silu(gate) * up) W' + b, computed in the dtype of `gate`, which may be wider than the weight's."""
    apply: Any = _GatedProduct.apply
    out: Tensor = apply(gate, up, weight, bias)
    return out
