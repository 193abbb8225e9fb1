"""Numbers into the bytes of GGUF's block types, by the extension."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from martlet.engine.extension import count_threads, native
from martlet.errors import ArgumentError
from martlet.formats.tensors import num_bytes

ENCODED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")


def encode(values: NDArray[np.float32], kind: str, num_threads: int | None = None) -> NDArray[np.uint8]:
    """The bytes of float32 `(rows, columns)` as `kind`, row after row: each block's scale has the least squared error.

    ArgumentError for a kind that is not in `ENCODED`, or whose blocks do not fill a row.
    """
    if kind not in ENCODED:
        raise ArgumentError(f"type {kind}", f"numbers are encoded as {', '.join(ENCODED)}")
    out = np.empty(num_bytes(kind, values.shape), np.uint8)
    native().encode_rows(kind, np.ascontiguousarray(values, np.float32), out, count_threads(num_threads))
    return out
