"""torch.compile for a run: the parts of a block that see tokens end to end, compiled once for any number of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from martlet.errors import MissingDependencyError, UnsupportedError
from martlet.nn.decoder import Block
from martlet.nn.draws import SampleDropout


@contextlib.contextmanager
def compiled(model: nn.Module, backend: str | None, mode: str | None, shards: bool) -> Iterator[None]:
    """Inside, the MLP of every block of `model` runs compiled, by sizes that are not known beforehand.

    Attention is of rows: their lengths are Python's numbers, and each new set of them would be compiled anew, so it
    runs as it is. UnsupportedError for a model without our blocks, or in shards.
    """
    blocks = [each for each in model.modules() if isinstance(each, Block)]
    if not blocks:
        raise UnsupportedError(
            "torch_compile", "compiles the blocks of martlet's models", found=type(model).__name__,
            remedy="Call model.compile() yourself, and leave torch_compile out.",
        )  # fmt: skip
    if shards:
        raise UnsupportedError("torch_compile", "cannot go with fsdp: weights come and go between calls")
    if (backend or "inductor") == "inductor" and next(model.parameters()).device.type == "cpu":
        _find_compiler()
    drawing = [each for block in blocks for each in block.mlp.modules() if isinstance(each, SampleDropout) and each.p]
    for each in drawing:  # a draw is a function of numbers that change with each step
        disable: Any = torch.compiler.disable
        each.forward = disable(each.forward)  # type: ignore[method-assign]
    for block in blocks:
        block.mlp.compile(dynamic=True, backend=backend or "inductor", mode=mode)
    try:
        yield
    finally:
        for block in blocks:
            block.mlp._compiled_call_impl = None
        for each in drawing:
            del each.forward


def _find_compiler() -> None:
    """MissingDependencyError where there is no C++ compiler for the CPU's kernels."""
    from torch._inductor import cpp_builder, exc

    failed: tuple[Any, ...] = (exc.InvalidCxxCompiler, OSError)
    try:
        cpp_builder.get_cpp_compiler()
    except failed as problem:
        raise MissingDependencyError(
            "torch_compile", "needs a C++ compiler on a CPU", remedy="Install g++, or name one in the variable CXX."
        ) from problem
