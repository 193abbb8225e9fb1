"""What a load would take if only memory, or only the multipliers, held it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from martlet.arch import EMBEDDING, HEAD, Arch, cache_bytes, linear_shapes
from martlet.bench.machine import Limits
from martlet.bench.run import Load
from martlet.engine import KV_DTYPES

# How a kind of matrix is multiplied: quants below 16 leave an instruction more room.
OPERANDS = {"F32": "fp32", "F16": "fp32", "BF16": "bf16", "Q4_0": "int4", "Q4_1": "int4", "Q4_K": "int4"}


@dataclass(frozen=True, slots=True)
class Work:
    """What a load asks for: operations of a prefill by operand, bytes of a step of decoding."""

    prefill_operations: Mapping[str, float]
    step_bytes: float  # all matrices once, and every row's keys and values half way through
    rows: int

    def prefill_s(self, limits: Limits) -> float:
        """Seconds at the measured peaks."""
        return sum(count / limits.peaks[operand].operations.best for operand, count in self.prefill_operations.items())

    def decode_limit(self, limits: Limits) -> float:
        """Tokens a second if a step took what reading its bytes takes."""
        return limits.model_read.best * self.rows / self.step_bytes


def find_work(
    arch: Arch, kinds: Mapping[str, str], packed_bytes: int, load: Load, limits: Limits, kv_cache_dtype: str = "float16"
) -> Work:
    """The work of a load on a model whose matrices are packed as `kinds` says."""
    operations: dict[str, float] = {}

    def count(operand: str, number: float) -> None:
        operations[operand] = operations.get(operand, 0.0) + number

    for layer in range(arch.num_layers):
        for name, (rows, columns), _ in linear_shapes(arch):
            operand = OPERANDS.get(kinds[f"model.layers.{layer}.{name}.weight"], "int8")
            count(operand, 2.0 * rows * columns * load.num_prompt_tokens)
    head = OPERANDS.get(kinds.get(HEAD, kinds[EMBEDDING]), "int8")
    count(head, 2.0 * arch.vocab_size * arch.token_vector_size * len(load.lengths))
    peaks = limits.peaks
    attention = max(("fp32", "bf16"), key=lambda operand: peaks[operand].operations.best)
    for length in load.lengths:
        for layer_ in arch.layers:
            window = layer_.window or length
            pairs = (
                length * (length + 1) / 2
                if window >= length
                else window * (window + 1) / 2 + (length - window) * window
            )
            count(attention, 4.0 * pairs * arch.query_size)
    past = sum(cache_bytes(arch, length + load.new_tokens // 2, KV_DTYPES[kv_cache_dtype]) for length in load.lengths)
    return Work(operations, packed_bytes + past, len(load.lengths))
