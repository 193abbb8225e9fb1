"""Adafactor with a rate that is given: second moments kept as a row and a column a matrix (Shazeer & Stern 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from martlet.errors import ArgumentError


class Adafactor(torch.optim.Optimizer):
    """Algorithm 4 of the paper with an external rate, as Hugging Face's Trainer runs it: updates are not scaled by the
    size of the weights (torch.optim.Adafactor always does that). `beta2_decay`: beta2 of step t is 1 - t ** it.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, *, eps: float = 1e-30, clip_threshold: float = 1.0,
        beta2_decay: float = -0.8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        if not lr >= 0 or not clip_threshold > 0 or not beta2_decay <= 0:
            raise ArgumentError("adafactor", "needs lr >= 0, clip_threshold > 0 and beta2_decay <= 0")
        given = {"lr": lr, "eps": eps, "clip_threshold": clip_threshold, "beta2_decay": beta2_decay}
        super().__init__(params, {**given, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[weight], weight.grad.float()  # type: ignore[union-attr]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name, shape in _moments(grad).items():
                state[name] = torch.zeros(shape, dtype=torch.float32, device=grad.device)
        state["step"] += 1
        keep = 1.0 - float(state["step"]) ** group["beta2_decay"]
        squares = grad.square() + group["eps"]
        if "row" in state:
            row = state["row"].mul_(keep).add_(squares.mean(-1), alpha=1.0 - keep)
            column = state["column"].mul_(keep).add_(squares.mean(-2), alpha=1.0 - keep)
            share = (row / row.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1)
            update = share * column.rsqrt().unsqueeze(-2) * grad
        else:
            update = state["square"].mul_(keep).add_(squares, alpha=1.0 - keep).rsqrt() * grad
        size = update.square().mean().sqrt()
        update /= torch.clamp(size / group["clip_threshold"], min=1.0)
        wide = weight if weight.dtype == torch.float32 else weight.float()
        wide = wide * (1.0 - group["weight_decay"] * group["lr"]) - update * group["lr"]
        weight.copy_(wide)


def _moments(grad: Tensor) -> dict[str, torch.Size]:
    """What a weight's second moments are kept as."""
    if grad.ndim < 2:
        return {"square": grad.shape}
    return {"row": grad.shape[:-1], "column": torch.Size((*grad.shape[:-2], grad.shape[-1]))}
