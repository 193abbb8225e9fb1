"""Formulas between matrix products, that keep their inputs for the backward pass and compute the rest again there."""

from __future__ import annotations

from dataclasses import dataclass
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


class _Rotation(torch.autograd.Function):
    """(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), the halves of the first R dimensions; back by the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    size, half = cos.shape[-1], cos.shape[-1] // 2
    wide, cos, sin = x.to(torch.promote_types(x.dtype, torch.float32)), cos[:, None], sin[:, None, :half]
    if size == x.shape[-1]:
        out = wide * cos
    else:
        out = wide.clone(memory_format=torch.contiguous_format)
        out[..., :size].mul_(cos)
    out[..., :half].addcmul_(wide[..., half:size], sin, value=-sign)
    out[..., half:size].addcmul_(wide[..., :half], sin, value=sign)
    return out.to(x.dtype)


def rotate(x_TNH: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turns pairs (d, d + R/2) of the first R dimensions by each token's angle; float32 inside.

    Each angle stands twice in the tables. Three passes where cutting, turning round and joining take five.
    """
    apply: Any = _Rotation.apply
    out: Tensor = apply(x_TNH, cos_TR, sin_TR)
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


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change s b a of a weight that is frozen: a `(r, I)`, b `(O, r)`."""

    a: Tensor
    b: Tensor
    scaling: float


def _given(change: LowRank | None) -> tuple[Any, Any, float]:
    return (None, None, 0.0) if change is None else (change.a, change.b, change.scaling)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _add_change(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """out += s (x a') b'; returns x a'."""
    low = x.flatten(0, -2) @ a.T
    out.view(-1, out.shape[-1]).addmm_(low, b.T, alpha=scaling)
    return low


def _change_back(
    grad: Tensor, x: Tensor, a: Tensor, b: Tensor, low: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a and b, and that of `low`, from which x's is a product with a."""
    flat = grad.flatten(0, -2)
    grad_low = (flat @ b).mul_(scaling)
    return grad_low.T @ x.flatten(0, -2), (flat.T @ low).mul_(scaling), grad_low


class _ChangedLinear(torch.autograd.Function):
    """y = x W' + bias + s (z a') b', W frozen; z is x, or x with some of it dropped. Keeps z and z a'.

    By itself each adapter would be three passes over y and one more over x's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor,
        scaling: float,
    ) -> Tensor:  # fmt: skip
        out, read = _product(x, weight, bias), x if dropped is None else dropped
        low = _add_change(out, read, a, b, scaling)
        ctx.save_for_backward(read, weight, a, b, low)
        ctx.scaling, ctx.drops = scaling, dropped is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        read, weight, a, b, low = ctx.saved_tensors
        grad_a, grad_b, grad_low = _change_back(grad, read, a, b, low, ctx.scaling)
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight.to(grad.dtype)
            if not ctx.drops:
                grad_x.view(-1, grad_x.shape[-1]).addmm_(grad_low, a)
        if ctx.drops and ctx.needs_input_grad[1]:
            grad_dropped = (grad_low @ a).view_as(read)
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, grad_dropped, None, grad_bias, grad_a, grad_b, None


def changed_linear(x: Tensor, dropped: Tensor | None, weight: Tensor, bias: Tensor | None, change: LowRank) -> Tensor:
    """x W' + bias + s (z a') b', z being `dropped` or x, in x's dtype, which is a's and may be wider than W's."""
    apply: Any = _ChangedLinear.apply
    out: Tensor = apply(x, dropped, weight, bias, change.a, change.b, change.scaling)
    return out


class _GatedProduct(torch.autograd.Function):
    """y = m W' + bias + s (m a') b', m = silu(g) u. Keeps g and u, in the weight's dtype: autograd would keep m too."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor | None, b: Tensor | None,
        scaling: float,
    ) -> Tensor:  # fmt: skip
        mixed = F.silu(gate).mul_(up)
        out, low = _product(mixed, weight, bias), None
        if a is not None and b is not None:
            low = _add_change(out, mixed, a, b, scaling)
        ctx.save_for_backward(gate.to(weight.dtype), up.to(weight.dtype), weight, a, b, low)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, a, b, low = ctx.saved_tensors
        gate, up = gate.to(grad.dtype), up.to(grad.dtype)
        grad_gate = grad_up = grad_w = grad_bias = grad_a = grad_b = grad_low = None
        silu = F.silu(gate)
        if ctx.needs_input_grad[2] or a is not None:
            flat, mixed = grad.flatten(0, -2), silu * up
            if ctx.needs_input_grad[2]:
                grad_w = (flat.T @ mixed.flatten(0, -2)).to(weight.dtype)
            if a is not None:
                grad_a, grad_b, grad_low = _change_back(grad, mixed, a, b, low, ctx.scaling)
        if ctx.needs_input_grad[3]:
            grad_bias = grad.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            grad_mixed = grad @ weight.to(grad.dtype)
            if grad_low is not None:
                grad_mixed.view(-1, grad_mixed.shape[-1]).addmm_(grad_low, a)
            grad_up = silu.mul_(grad_mixed)
            grad_gate = torch.ops.aten.silu_backward(grad_mixed.mul_(up), gate)
        return grad_gate, grad_up, grad_w, grad_bias, grad_a, grad_b, None


def gated_product(
    gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, change: LowRank | None = None
) -> Tensor:
    """(silu(gate) * up) (W + change)' + bias, in the dtype of `gate`, which may be wider than the weight's."""
    apply: Any = _GatedProduct.apply
    out: Tensor = apply(gate, up, weight, bias, *_given(change))
    return out
