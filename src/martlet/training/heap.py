"""The C library's heap during a run: freed blocks that no other fits go back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import platform
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from martlet.nn.decoder import Block

HOLES_BYTES = 64 << 20  # of freed memory still held, before it is given back


class _Usage(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@functools.cache
def _glibc() -> Any:
    """glibc, 2.33 or newer, or None where the C library is another."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2") or not hasattr(library, "malloc_trim"):
        return None
    library.mallinfo2.restype = _Usage
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library


class Heap:
    """Keeps the process's memory near to what is in use: `tidy` gives holes back when memory grows.

    From the first freed block of up to 32 MiB on, glibc keeps blocks of that size in one heap. Tensors of a few sizes
    that live and die in another order leave holes there that others do not fit, half as much again as is in use.
    Where the C library is not glibc 2.33 or newer, or `is_used` is false, nothing is done.
    """

    def __init__(self, is_used: bool = True) -> None:
        self.library: Any = _glibc() if is_used else None
        self.times = 0
        self.ceiling = 0  # the most that the process needed, holes not counted
        self.trim()

    def trim(self) -> None:
        """Gives back every whole page of freed blocks: the next block there takes a page fault for each."""
        if self.library is not None:
            self.library.malloc_trim(0)
            self.times += 1
            held = _private_bytes()
            self.ceiling = max(self.ceiling, held)
            self.rest = held - self._bytes_in_use()  # what others than malloc mapped

    def tidy(self) -> None:
        """Trims if the process holds `HOLES_BYTES` more than it ever needed, and as much lies in holes.

        Below that holes are left: the next blocks fit into many of them, and a page given back costs a fault to get.
        """
        if self.library is None:
            return
        held = _private_bytes()
        if held < self.ceiling + HOLES_BYTES:
            return
        if held - self._bytes_in_use() > self.rest + HOLES_BYTES:
            self.trim()
        else:
            self.ceiling = held

    def _bytes_in_use(self) -> int:
        usage = self.library.mallinfo2()
        return int(usage.uordblks + usage.hblkhd)

    @contextlib.contextmanager
    def tidied_between_blocks(self, model: nn.Module) -> Iterator[None]:
        """Inside, `tidy` after each block of `model`, forward and backward."""
        blocks = [each for each in model.modules() if isinstance(each, Block)] if self.library is not None else []
        hooks = [each.register_forward_hook(self._after) for each in blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _after(self, _: nn.Module, __: Any, out: Any) -> None:
        self.tidy()
        if isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda _: self.tidy())  # type: ignore[no-untyped-call]


def _private_bytes() -> int:
    """Memory of this process alone that is in RAM: not what is mapped from files."""
    file = os.open("/proc/self/statm", os.O_RDONLY)  # a third of what open() takes
    try:
        _, resident, shared = map(int, os.read(file, 128).split()[:3])
    finally:
        os.close(file)
    return (resident - shared) * mmap.PAGESIZE
