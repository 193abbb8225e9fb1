"""Attention of whole rows while training: rows of one length in one call, no padding, no cache.

Cutting T tokens row by row would cost, backward, a tensor of all T for every row.
"""

# T tokens of all rows, G rows of one length, t tokens of one row, N query heads, K key/value heads, H head width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from martlet.nn.ragged import Ragged

Attend = Callable[[Tensor, Tensor, Tensor, tuple[int, ...]], Tensor]


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by length. `order_T` lays tokens group after group and `back_T` undoes it; None: they lie so already."""

    rows: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    order_T: Tensor | None
    back_T: Tensor | None


def group_rows(lengths: tuple[int, ...], device: torch.device) -> Groups:
    """The rows of each length, in order of length."""
    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    by_length: dict[int, list[int]] = {}
    for row in rows:
        by_length.setdefault(lengths[row], []).append(row)
    groups = tuple(tuple(group) for group in by_length.values())
    if rows == list(range(len(lengths))):
        return Groups(groups, tuple(by_length), None, None)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    order_T = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in rows])
    return Groups(groups, tuple(by_length), order_T.to(device), order_T.argsort().to(device))


class _Reorder(torch.autograd.Function):
    """x in another order of tokens. Autograd's own would add into zeros, as if a token could come twice."""

    @staticmethod
    def forward(ctx: Any, x_T: Tensor, order_T: Tensor, back_T: Tensor) -> Tensor:
        ctx.save_for_backward(back_T)
        return x_T.index_select(0, order_T)

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor, None, None]:
        (back_T,) = ctx.saved_tensors
        return grad_T.index_select(0, back_T), None, None


def attend_rows(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, whole: Ragged, attend: Attend) -> Tensor:
    """`attend` of every group of rows, q, k, v and result `(G, heads, t, H)`, put together as `(T, N * H)`."""
    device = q_TNH.device
    if device not in whole.groups:  # the first layer's work for all
        whole.groups[device] = group_rows(whole.lengths, device)
    groups: Groups = whole.groups[device]
    reorder: Any = _Reorder.apply
    every = (q_TNH, k_TKH, v_TKH)
    if groups.order_T is not None:
        every = tuple(reorder(x, groups.order_T, groups.back_T) for x in every)
    sizes = [len(rows) * length for rows, length in zip(groups.rows, groups.lengths, strict=True)]
    out = []
    for rows, length, q, k, v in zip(groups.rows, groups.lengths, *(torch.split(x, sizes) for x in every), strict=True):
        parts = [x.view(len(rows), length, x.shape[1], x.shape[2]).transpose(1, 2) for x in (q, k, v)]
        out.append(attend(parts[0], parts[1], parts[2], rows).transpose(1, 2).reshape(len(rows) * length, -1))
    joined = out[0] if len(out) == 1 else torch.cat(out)
    return joined if groups.order_T is None else reorder(joined, groups.back_T, groups.order_T)


class _Dropped(torch.autograd.Function):
    """softmax(q k' scale), some of it dropped, times v. Keeps the shares and which are dropped."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropped: Tensor, keep: float, scale: float, hidden: Tensor | None
    ) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).float().mul_(scale)
        if hidden is not None:
            scores.masked_fill_(hidden, float("-inf"))
        shares = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, dropped, shares)
        ctx.keep, ctx.scale = keep, scale
        return _drop(shares, dropped, keep) @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, dropped, shares = ctx.saved_tensors
        grad_v = _drop(shares, dropped, ctx.keep).transpose(-1, -2) @ grad
        grad_shares = (grad @ v.transpose(-1, -2)).div_(ctx.keep).masked_fill_(dropped, 0.0)
        inner = (grad_shares.float() * shares).sum(-1, keepdim=True)
        grad_scores = (grad_shares - inner).mul_(shares).mul_(ctx.scale).to(q.dtype)
        return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, grad_v, None, None, None, None


def _drop(x: Tensor, dropped: Tensor, keep: float) -> Tensor:
    return x.div(keep).masked_fill_(dropped, 0.0)


def attend_with_dropout(
    q_GNtH: Tensor, k_GNtH: Tensor, v_GNtH: Tensor, dropped: Tensor, keep: float, scale: float, hidden_tt: Tensor | None
) -> Tensor:
    """Attention of one group whose shares `dropped` `(G, N, t, t)` are zeros, the others over `keep`.

    `hidden_tt`: what each token must not see.
    """
    apply: Any = _Dropped.apply
    out: Tensor = apply(q_GNtH, k_GNtH, v_GNtH, dropped, keep, scale, hidden_tt)
    return out
