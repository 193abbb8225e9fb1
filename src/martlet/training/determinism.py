"""Runs that repeat to the bit, on GPUs as well."""

from __future__ import annotations

import os

from martlet.generation import set_seed


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """`set_seed(seed)`, and torch's deterministic algorithms alone, for the rest of the process.

    With `warn_only` torch warns of an operation that has none; else it is an error. On a CPU a Trainer's runs repeat
    to the bit without this.
    """
    import torch

    set_seed(seed)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # else cuBLAS has no deterministic products
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
