"""Products of bfloat16 weights where the machine has no instructions for them: widened to float32 for the product."""

# T tokens, I inputs and O outputs of a linear layer

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.cache
def has_bfloat16_products(device_type: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on a GPU, and on CPUs with AVX-512 BF16 or AMX."""
    if device_type != "cpu":
        return True
    try:
        features = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # torch before 2.9
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))


class _WideLinear(torch.autograd.Function):
    """y = x W' + b in float32. What is kept for the backward pass is kept in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, narrow_TI: Tensor | None, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(narrow_TI, weight_OI)
        ctx.has_bias = bias_O is not None
        return F.linear(x_TI, weight_OI.float(), None if bias_O is None else bias_O.float())

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, weight_OI = ctx.saved_tensors
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_TO @ weight_OI.float()
        if ctx.needs_input_grad[2]:
            flat = grad_TO.reshape(-1, grad_TO.shape[-1])
            grad_w = (flat.T @ x_TI.reshape(-1, x_TI.shape[-1]).float()).to(weight_OI.dtype)
        if ctx.has_bias and ctx.needs_input_grad[3]:
            grad_b = grad_TO.reshape(-1, grad_TO.shape[-1]).sum(0).to(weight_OI.dtype)
        return grad_x, None, grad_w, grad_b


class _Narrowed:
    """The last tensor that was rounded to be kept: queries, keys and values read one, and keep one between them."""

    def __init__(self) -> None:
        self.last: tuple[Any, int, Tensor] | None = None

    def of(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if torch.compiler.is_compiling():
            return x.detach().to(dtype)
        if self.last is not None:
            source, version, narrow = self.last
            if source() is x and version == x._version and narrow.dtype == dtype:
                return narrow
        narrow = x.detach().to(dtype)
        self.last = (weakref.ref(x), x._version, narrow)
        return narrow


def _linear(module: nn.Linear, narrowed: _Narrowed, x: Tensor) -> Tensor:
    wide = x.float()
    keeps = torch.is_grad_enabled() and module.weight.requires_grad
    apply: Any = _WideLinear.apply
    out: Tensor = apply(wide, narrowed.of(wide, module.weight.dtype) if keeps else None, module.weight, module.bias)
    return out


def is_plain(module: nn.Module) -> bool:
    """Whether calling it is its product and nothing else: a linear layer not adapted, listened to, or compiled."""
    if type(module) is not nn.Linear or torch.compiler.is_compiling():
        return False
    forward = vars(module).get("forward")
    is_own = forward is None or getattr(forward, "func", None) is _linear
    return is_own and not has_listeners(module)


def has_listeners(module: nn.Module) -> bool:
    """Whether hooks want to see its calls."""
    listeners = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(map(bool, listeners))


def _embedding(module: nn.Embedding, ids: Tensor) -> Tensor:
    return F.embedding(ids, module.weight, module.padding_idx).float()


@contextlib.contextmanager
def computing_in_float32(model: nn.Module) -> Iterator[None]:
    """Inside, bfloat16 linear layers and embeddings of `model` give float32, so everything between them is float32.

    Weights and their gradients stay bfloat16: half the memory, and float32's speed where bfloat16 is emulated.
    """
    changed: list[Any] = []
    narrowed = _Narrowed()
    for module in model.modules():
        if "forward" in vars(module) or type(module) not in (nn.Linear, nn.Embedding):
            continue
        if module.weight.dtype == torch.bfloat16:
            made: Any = functools.partial(_embedding, module)  # type: ignore[arg-type]
            if type(module) is nn.Linear:
                made = functools.partial(_linear, module, narrowed)
            changed.append(module)
            changed[-1].forward = made
    try:
        yield
    finally:
        for module in changed:
            del module.forward
