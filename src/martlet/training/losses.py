"""Losses as sums over supervised items, so that any cut of a batch adds up to the same mean. No models here."""

# T tokens, S supervised tokens, D hidden size, V vocabulary, C classes

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a token that is not supervised
CHUNK_BYTES = 64 << 20  # of float32 logits held at once; a product of half as many rows is a seventh slower


def token_losses(logits_SV: Tensor, labels_S: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each token `(S,)`, float32. Smoothing (Szegedy et al. 2016) shares e of the target over all."""
    logits = logits_SV.float()
    total = logits.logsumexp(-1)
    loss = total - logits.gather(-1, labels_S[:, None])[:, 0]
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * (total - logits.mean(-1))
    return loss


def cross_entropy_sum(logits_SV: Tensor, labels_S: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum over the labels that are not -100; zero, with a gradient of zeros, where there are none."""
    kept = labels_S != IGNORED
    if not bool(kept.all()):
        logits_SV, labels_S = logits_SV[kept], labels_S[kept]
    if not len(labels_S):
        return logits_SV.sum().float() * 0.0
    return token_losses(logits_SV, labels_S, smoothing).sum()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Head and cross-entropy together: logits of a chunk of rows exist at a time, and gradients come in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_S: Tensor,
        scale: float,
        softcap: float,
        smoothing: float,
    ) -> Tensor:
        wanted = ctx.needs_input_grad
        narrow = weight_VD.dtype
        compute = torch.float32 if hidden_SD.dtype == torch.float32 else narrow
        weight = weight_VD.to(compute)
        hidden = hidden_SD.to(compute)
        vocab = weight.shape[0]
        grad_hidden = torch.empty_like(hidden) if wanted[0] else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted[1] else None
        grad_bias = None if bias_V is None or not wanted[2] else torch.zeros_like(bias_V, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, CHUNK_BYTES // (4 * vocab))
        # one buffer for all chunks: fresh pages of this size take a fifth of the product's time
        buffer = torch.empty((min(rows, len(labels_S)), vocab), dtype=compute, device=weight.device)
        for begin in range(0, len(labels_S), rows):
            part, labels = hidden[begin : begin + rows], labels_S[begin : begin + rows]
            logits = torch.mm(part, weight.T, out=buffer[: len(part)])
            logits = (logits if bias_V is None else logits.add_(bias_V)).float()
            loss, grad = _loss_and_grad(logits, labels, scale, softcap, smoothing, any(wanted))
            total += loss
            if grad is None:
                continue
            grad_c = grad.to(compute)
            if grad_hidden is not None:
                torch.mm(grad_c, weight, out=grad_hidden[begin : begin + rows])
            if grad_weight is not None:
                if compute == torch.float32:
                    grad_weight.addmm_(grad_c.T, part)
                else:
                    grad_weight += grad_c.T @ part
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.dtypes = (hidden_SD.dtype, narrow, None if bias_V is None else bias_V.dtype)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out = [
            None if each is None else each.mul_(grad).to(dtype)
            for each, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        ctx.grads = None
        return (*out, None, None, None, None)


def _loss_and_grad(
    logits: Tensor, labels: Tensor, scale: float, softcap: float, smoothing: float, wants_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Summed loss of a chunk, and its gradient by the head's plain product, written over `logits`."""
    if scale != 1.0:
        logits.mul_(scale)
    if softcap:
        logits.div_(softcap).tanh_()
        slope = 1 - logits.square() if wants_grad else None
        logits.mul_(softcap)
    if not wants_grad:
        return token_losses(logits, labels, smoothing).sum(), None
    largest = logits.amax(-1)
    picked = logits.gather(-1, labels[:, None])[:, 0]
    mean = logits.mean(-1) if smoothing else None
    grad = torch.softmax(logits, -1, out=logits)
    total = largest - grad.amax(-1).log()  # log sum exp, of the softmax that is there: max p = exp(max - it) > 1 / V
    target = picked if mean is None else (1 - smoothing) * picked + smoothing * mean
    loss = (total - target).sum()
    if smoothing:
        grad -= smoothing / grad.shape[-1]
    grad[torch.arange(len(labels), device=labels.device), labels] -= 1 - smoothing
    if softcap:
        assert slope is not None
        grad *= slope
    return loss, grad.mul_(scale) if scale != 1.0 else grad


def head_cross_entropy_sum(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_S: Tensor,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Summed cross-entropy of softcap(scale * (h W' + b)) at the rows given, float32, without all logits at once.

    Rows whose label is -100 must have been left out. A head that is frozen costs no gradient.
    """
    if not len(labels_S):
        return hidden_SD.sum().float() * 0.0 + weight_VD.sum().float() * 0.0
    apply: Any = _ChunkedCrossEntropy.apply
    out: Tensor = apply(hidden_SD, weight_VD, bias_V, labels_S, scale, softcap, smoothing)
    return out


def multi_label_sum(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Binary cross-entropy with logits: each row's mean over the classes, summed over rows."""
    return F.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC.float(), reduction="none").mean(-1).sum()


def squared_error_sum(values: Tensor, labels: Tensor) -> Tensor:
    """Squared error: each row's mean over its values, summed over rows."""
    return (values.float().flatten(1) - labels.float().reshape(len(values), -1)).square().mean(-1).sum()
