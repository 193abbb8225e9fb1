"""First weights of an adapter: random ones, and those taken out of the matrix they adapt."""

# O rows out, I columns in, r rank

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.adapters.config import NITER
from martlet.errors import ArgumentError
from martlet.nn.draws import mix


@dataclass(frozen=True)
class First:
    """A `(r, I)` and B `(O, r)`, float32."""

    a: Tensor
    b: Tensor


def draw(init: bool | str, rank: int, shape: tuple[int, int], place: str) -> First:
    """Random first weights; a function of torch's seed and `place`. B is zero unless `init` says otherwise."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(mix(torch.initial_seed(), *place.encode()) >> 1)
    a, b = torch.empty(rank, columns), torch.zeros(rows, rank)
    if init == "gaussian":
        a.normal_(0.0, 1 / rank, generator=generator)
    elif init == "orthogonal":  # B A = 0, both not: rows of one orthogonal matrix, the odd for A and the even for B
        if rank % 2:
            raise ArgumentError("init_lora_weights", "'orthogonal' needs an even rank", found=rank)
        q = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
        a = (torch.randn(columns, rank // 2, generator=generator) @ q[0::2]).T / 10
        b = torch.randn(rows, rank // 2, generator=generator) @ q[1::2] / 10
    else:  # as nn.Linear begins
        a.uniform_(-(columns**-0.5), columns**-0.5, generator=generator)
    if init is False:
        b.uniform_(-(rank**-0.5), rank**-0.5, generator=generator)
    return First(a.contiguous(), b.contiguous())


def take(init: str, rank: int, weight_OI: Tensor, scaling: float) -> First:
    """Weights with s B A the part of the matrix that `init` means: a function of the matrix alone.

    "pissa": its first r singular directions (Meng et al. 2024); "pissa_niter_N": those by N subspace iterations;
    "olora": the first r columns of Q and rows of R of its QR (Büyükakyüz 2024).
    """
    weight = weight_OI.detach().float()
    if rank > min(weight.shape):
        raise ArgumentError(
            "r", f"must not be above the size of the matrix with {init!r}", found=f"{rank} for {list(weight.shape)}"
        )
    if init == "olora":
        q, r = torch.linalg.qr(weight)
        return First(r[:rank].contiguous(), q[:, :rank].contiguous())
    iterations = NITER.fullmatch(init)
    if iterations is None:
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
        left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    else:
        with torch.random.fork_rng(devices=[]):  # svd_lowrank begins with a random matrix
            torch.manual_seed(0)
            left, sizes, transposed = torch.svd_lowrank(weight, rank, niter=int(iterations[1]))
        right = transposed.T
    root = (sizes / scaling).sqrt()
    return First((root[:, None] * right).contiguous(), (left * root).contiguous())
