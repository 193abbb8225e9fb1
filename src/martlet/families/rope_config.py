"""Every spelling of rotary settings in a config.json -> `Rope`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from martlet.arch import Rope, RopeScaling
from martlet.families.reader import Reader
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


def read_rope(
    c: Reader,
    *,
    head_dim: int,
    theta: float = 10_000.0,
    fraction: float = 1.0,
    theta_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    layer_type: str | None = None,
) -> Rope:
    """The rotation of all layers, or of those of one `layer_type`; `theta` and `fraction` are the family's defaults.

    `rope_parameters` (transformers 5: flat, or one table a layer type) wins over `rope_scaling`, and a table over the
    keys beside it.
    """
    table = _table(c, layer_type)
    kind_name = table.get("rope_type") or table.get("type") or "default"
    if kind_name not in KINDS:
        raise c.error(f"rope type must be one of {', '.join(KINDS)}", kind_name)
    kind = KINDS[kind_name]
    outer_fraction = c.number(fraction_key, fraction)
    rope = Rope(
        theta=_number(c, table, "rope_theta", c.number(theta_key, theta)),
        fraction=_number(c, table, "partial_rotary_factor", outer_fraction),
    )
    if rope.theta <= 0:
        raise c.error("rope_theta must be above 0", rope.theta)
    if not 0 < rope.fraction <= 1:
        raise c.error("partial_rotary_factor must be above 0 and at most 1", rope.fraction)
    if kind is RopeScaling.NONE:
        return rope
    return _scaled(c, table, kind, rope, head_dim)


def _scaled(c: Reader, table: Mapping[str, Any], kind: RopeScaling, rope: Rope, head_dim: int) -> Rope:
    longest = c.size("max_position_embeddings", 0)
    outer = c.size("original_max_position_embeddings", 0)
    original = outer or int(_number(c, table, "original_max_position_embeddings", longest))
    if kind is RopeScaling.DYNAMIC:
        original = longest
    if kind is not RopeScaling.LINEAR and original < 1:
        raise c.error("original_max_position_embeddings must be at least 1", original)
    ratio = longest / original if original else 1.0
    default_factor = ratio if kind in (RopeScaling.LONGROPE, RopeScaling.YARN) else None
    factor = _number(c, table, "factor", default_factor)
    common = {"theta": rope.theta, "fraction": rope.fraction, "scaling": kind, "factor": factor}
    match kind:
        case RopeScaling.LLAMA3:
            return Rope(
                **common,
                original_positions=original,
                low_freq_factor=_number(c, table, "low_freq_factor", None),
                high_freq_factor=_number(c, table, "high_freq_factor", None),
            )
        case RopeScaling.YARN:
            computed = yarn_attention_factor(
                factor, _number(c, table, "mscale", 0.0), _number(c, table, "mscale_all_dim", 0.0)
            )
            return Rope(
                **common,
                original_positions=original,
                beta_fast=_number(c, table, "beta_fast", 32.0),
                beta_slow=_number(c, table, "beta_slow", 1.0),
                truncate=bool(table.get("truncate", True)),
                attention_factor=_number(c, table, "attention_factor", computed),
            )
        case RopeScaling.LONGROPE:
            pairs = rope.num_rotated(head_dim) // 2
            computed = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            return Rope(
                **common,
                original_positions=original,
                short_factor=_factors(c, table, "short_factor", pairs),
                long_factor=_factors(c, table, "long_factor", pairs),
                attention_factor=_number(c, table, "attention_factor", computed),
            )
        case _:
            return Rope(**common, original_positions=original)


def _table(c: Reader, layer_type: str | None) -> Mapping[str, Any]:
    table = c.value("rope_parameters")
    scaling = c.value("rope_scaling")
    if table is None:
        table = scaling or {}
    if not isinstance(table, dict):
        raise c.error("rope_parameters must be an object", table)
    if layer_type is not None and (layer_type in table or any(isinstance(v, dict) for v in table.values())):
        table = table.get(layer_type) or {}
        if not isinstance(table, dict):
            raise c.error(f"rope_parameters[{layer_type!r}] must be an object", table)
    return table


def _number(c: Reader, table: Mapping[str, Any], key: str, default: float | None) -> float:
    found = table.get(key)
    if found is None:
        found = default
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise c.error(f"rope {key} must be a number", "nothing" if found is None else found)
    return float(found)


def _factors(c: Reader, table: Mapping[str, Any], key: str, length: int) -> tuple[float, ...]:
    found = table.get(key)
    if (
        not isinstance(found, list)
        or len(found) != length
        or not all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in found)
    ):
        raise c.error(f"rope {key} must be {length} numbers above 0", found)
    return tuple(float(x) for x in found)
