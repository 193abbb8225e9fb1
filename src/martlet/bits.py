"""`BitsAndBytesConfig`: what scripts ask of bitsandbytes, answered by martlet's own packing of weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError

logger = logging.getLogger("martlet")
_SAID = (
    "load_in_%sbit: matrices are kept in blocks of int%s, as quantize='int%s' says, where bitsandbytes keeps its own "
    "types; numbers differ from both"
)
# What says how bitsandbytes computes, of which there is nothing here: one kind of blocks a width, computed by one rule.
_IDLE = (
    "llm_int8_threshold",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
)
_said: set[str] = set()


class BitsAndBytesConfig:
    """`load_in_8bit` packs a model's matrices as `quantize="int8"` does, `load_in_4bit` as `quantize="int4"`.

    The blocks are GGUF's (Q8_0, Q4_0), not bitsandbytes' types: `bnb_4bit_quant_type` and the others are taken, and
    change nothing. UnsupportedError for `llm_int8_skip_modules`, which would keep matrices unpacked.
    """

    quant_method = "bitsandbytes"

    def __init__(self, load_in_8bit: bool = False, load_in_4bit: bool = False, **options: Any) -> None:
        if load_in_8bit and load_in_4bit:
            raise ArgumentError("BitsAndBytesConfig", "load_in_8bit and load_in_4bit exclude each other")
        if options.pop("llm_int8_skip_modules", None):
            raise UnsupportedError(
                "llm_int8_skip_modules",
                "is not supported: every matrix of the blocks is packed",
                remedy="Leave it out.",
            )
        unknown = sorted(set(options) - set(_IDLE))
        if unknown:
            raise ArgumentError("BitsAndBytesConfig", f"does not take the keyword {unknown[0]!r}")
        self.load_in_8bit, self.load_in_4bit = bool(load_in_8bit), bool(load_in_4bit)
        for name in _IDLE:
            setattr(self, name, options.get(name))

    def to_dict(self) -> dict[str, Any]:
        """What was asked for, by name."""
        return {"quant_method": self.quant_method, **self.__dict__}

    def __repr__(self) -> str:
        return f"BitsAndBytesConfig(load_in_8bit={self.load_in_8bit}, load_in_4bit={self.load_in_4bit})"


def asked_width(given: Any) -> str | None:
    """ "int8" or "int4" of a `quantization_config`, or None where it asks for nothing; the difference is logged once.

    Takes a BitsAndBytesConfig of either library, or a dict of one. UnsupportedError for another way of packing.
    """
    if given is None:
        return None
    said = dict(given) if isinstance(given, Mapping) else given.to_dict() if hasattr(given, "to_dict") else None
    if said is None:
        raise ArgumentError("quantization_config", "must be a BitsAndBytesConfig", found=type(given).__name__)
    method = str(getattr(said.get("quant_method"), "value", said.get("quant_method") or "bitsandbytes"))
    if method != "bitsandbytes":
        raise UnsupportedError(
            "quantization_config",
            f"weights are not packed as {method} does",
            remedy="Pass quantize='int8' or 'int4', or load a GGUF file of the model.",
        )
    if said.get("llm_int8_skip_modules"):
        BitsAndBytesConfig(llm_int8_skip_modules=said["llm_int8_skip_modules"])
    eight = said.get("load_in_8bit", said.get("_load_in_8bit"))
    four = said.get("load_in_4bit", said.get("_load_in_4bit"))
    width = "8" if eight else "4" if four else None
    if width is None:
        return None
    if width not in _said:
        _said.add(width)
        logger.warning(_SAID, width, width, width)
    return f"int{width}"
