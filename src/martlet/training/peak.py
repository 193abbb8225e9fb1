"""What this machine can do at most, and what a step of training asks of it."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch

from martlet.nn.compute import has_bfloat16_products

SIZE = 512  # of the square matrices that are multiplied


@functools.cache
def _measure(device: str, dtype: torch.dtype, threads: int) -> float:
    one = torch.ones((SIZE, SIZE), dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (one @ one)[0, 0].item()
        best = max(best, 2 * SIZE**3 / (time.perf_counter() - began))
    return best


def peak_flops(weight: torch.Tensor) -> float:
    """FLOP/s of a matrix product in the dtype that training computes in with such weights."""
    narrow = weight.dtype == torch.bfloat16 and has_bfloat16_products(weight.device.type)
    return peak_of(weight.device.type, torch.bfloat16 if narrow else torch.float32)


def peak_of(device: str, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a matrix product there, measured once."""
    return _measure(device, dtype, torch.get_num_threads())


def train_flops(model: Any) -> float:
    """FLOPs a token: 2 a weight forward, 2 back through it, 2 for its own gradient if it learns."""
    total = 0.0
    tables = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Embedding)}
    heads = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Linear)}
    for each in model.parameters():
        if id(each) in tables and id(each) not in heads:
            continue  # a table is looked up, not multiplied
        total += each.numel() * (6 if each.requires_grad else 4)
    return total
