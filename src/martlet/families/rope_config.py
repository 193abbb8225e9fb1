"""Every spelling of rotary settings in a config.json -> `Rope`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from martlet.arch import Rope, RopeScaling
from martlet.families.reader import Reader, is_number
from martlet.rope import yarn_attention_factor

KINDS = {
    "default": RopeScaling.NONE,
    "linear": RopeScaling.LINEAR,
    "dynamic": RopeScaling.DYNAMIC,
    "llama3": RopeScaling.LLAMA3,
    "yarn": RopeScaling.YARN,
    "longrope": RopeScaling.LONGROPE,
    "su": RopeScaling.LONGROPE,  # its name in the first Phi-3 files
}
# A key of some kinds is without effect in the others, as in Hugging Face; a key of none is an error.
_TABLE_KEYS = (
    "rope_type type rope_theta partial_rotary_factor factor original_max_position_embeddings attention_factor "
    "finetuned beta_fast beta_slow mscale mscale_all_dim truncate short_factor long_factor low_freq_factor "
    "high_freq_factor"
)
TABLE_KEYS = frozenset(_TABLE_KEYS.split())


def read_rope(
    c: Reader,
    *,
    head_dim: int,
    theta: float = 10_000.0,
    fraction: float | None = None,
    theta_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    table: Mapping[str, Any] | None = None,
) -> Rope:
    """The rotation a config describes; `theta` and `fraction` are the family's defaults, no fraction: all turns.

    The table is `rope_parameters` (transformers 5) or `rope_scaling` (4), or the one given; a value in it wins over
    the same key beside it.
    """
    table = rope_table(c) if table is None else check_table(c, table)
    kind_name = table.get("rope_type") or table.get("type") or "default"
    kind = KINDS.get(kind_name) if isinstance(kind_name, str) else None
    if kind is None:
        raise c.error(f"rope type must be one of {', '.join(KINDS)}", kind_name)
    rope = Rope(
        theta=_number(c, table, "rope_theta", c.number(theta_key, theta), above=1.0),
        fraction=_number(
            c, table, "partial_rotary_factor", c.number(fraction_key, 1.0 if fraction is None else fraction)
        ),
    )
    if fraction is None and rope.fraction != 1:
        raise c.error("partial_rotary_factor is supported at 1.0 only", rope.fraction)
    if not 0 < rope.fraction <= 1:
        raise c.error("partial_rotary_factor must be above 0 and at most 1", rope.fraction)
    if kind is RopeScaling.NONE:
        return rope
    return _scaled(c, table, kind, rope, head_dim)


def rope_table(c: Reader) -> Mapping[str, Any]:
    """The one table of rotary settings, {} if there is none."""
    named = {key: found for key in ("rope_parameters", "rope_scaling") if (found := c.value(key))}
    if len(named) == 2 and named["rope_parameters"] != named["rope_scaling"]:
        raise c.error(
            "rope_parameters and rope_scaling are two names of one table, and here they differ", named["rope_scaling"]
        )
    for table in named.values():
        return check_table(c, table)
    return {}


def check_table(c: Reader, table: Any) -> Mapping[str, Any]:
    """`table`, if it is an object of known keys."""
    if not isinstance(table, dict):
        raise c.error("rope_parameters must be an object", table)
    for key, value in table.items():
        if key not in TABLE_KEYS and value is not None:
            raise c.error(f"rope_parameters has a key {key!r}, which is not understood", value)
    return table


def _scaled(c: Reader, table: Mapping[str, Any], kind: RopeScaling, rope: Rope, head_dim: int) -> Rope:
    longest = c.size("max_position_embeddings", 0)
    outer = c.size("original_max_position_embeddings", 0)
    original = outer or _number(c, table, "original_max_position_embeddings", longest)
    if kind is RopeScaling.DYNAMIC:
        original = longest
    if kind is not RopeScaling.LINEAR and not (original >= 2 and original == int(original)):
        raise c.error("original_max_position_embeddings must be a whole number of at least 2", original)
    ratio = longest / original if original and longest else None
    factor = _number(c, table, "factor", ratio if kind in (RopeScaling.LONGROPE, RopeScaling.YARN) else None, above=0.0)
    original = int(original) if kind is not RopeScaling.LINEAR else 0
    common: dict[str, Any] = {"theta": rope.theta, "fraction": rope.fraction, "scaling": kind, "factor": factor}
    common["original_positions"] = original
    match kind:
        case RopeScaling.LLAMA3:
            low = _number(c, table, "low_freq_factor", None, above=0.0)
            return Rope(
                **common, low_freq_factor=low, high_freq_factor=_number(c, table, "high_freq_factor", None, above=low)
            )
        case RopeScaling.YARN:
            computed = yarn_attention_factor(
                factor, _number(c, table, "mscale", 0.0), _number(c, table, "mscale_all_dim", 0.0)
            )
            fast = _number(c, table, "beta_fast", 32.0) or 32.0
            slow = _number(c, table, "beta_slow", 1.0) or 1.0
            if min(fast, slow) < 0:
                raise c.error("rope beta_fast and beta_slow must be above 0", min(fast, slow))
            return Rope(
                **common,
                beta_fast=fast,
                beta_slow=slow,
                truncate=_flag(c, table, "truncate", True),
                attention_factor=_number(c, table, "attention_factor", computed),
            )
        case RopeScaling.LONGROPE:
            pairs = rope.num_rotated(head_dim) // 2
            computed = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            return Rope(
                **common,
                short_factor=_factors(c, table, "short_factor", pairs),
                long_factor=_factors(c, table, "long_factor", pairs),
                attention_factor=_number(c, table, "attention_factor", computed),
            )
        case RopeScaling.DYNAMIC:
            if rope.num_rotated(head_dim) < 4:
                raise c.error("dynamic rope scaling needs at least 4 rotated dimensions", rope.num_rotated(head_dim))
            _number(c, table, "factor", None, above=0.999)
            return Rope(**common)
        case _:
            return Rope(**common)


def _number(c: Reader, table: Mapping[str, Any], key: str, default: float | None, above: float | None = None) -> float:
    found = table.get(key)
    if found is None:
        found = default
    if found is None:
        raise c.error(f"rope {key} is missing")
    if not is_number(found):
        raise c.error(f"rope {key} must be a number", found)
    if above is not None and found <= above:
        raise c.error(f"rope {key} must be above {above:g}", found)
    return float(found)


def _flag(c: Reader, table: Mapping[str, Any], key: str, default: bool) -> bool:
    found = table.get(key)
    if found is None:
        return default
    if not isinstance(found, bool):
        raise c.error(f"rope {key} must be true or false", found)
    return found


def _factors(c: Reader, table: Mapping[str, Any], key: str, length: int) -> tuple[float, ...]:
    found = table.get(key)
    if not isinstance(found, list) or len(found) != length or not all(is_number(x) and x > 0 for x in found):
        raise c.error(f"rope {key} must be {length} numbers above 0", found)
    return tuple(float(x) for x in found)
