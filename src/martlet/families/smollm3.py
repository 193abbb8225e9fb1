"""SmolLM3: Llama of which every fourth layer has no rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, Layer
from martlet.families.decoder import decoder, read_window, with_windows
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.llama import UNPAIR
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, decoder_heads, family
from martlet.formats.tensors import TensorSource


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "smollm3")
    return config | {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS), "no_rope_layer_interval": 4}


GGUF = GgufDialect(("smollm3",), _gguf, (*GGUF_NAMES, *GGUF_PRE_NORMS, *UNPAIR))


@family(
    "smollm3",
    classes=("SmolLM3Model", "SmolLM3ForCausalLM"),
    gguf=GGUF,
    heads=decoder_heads(question_prefix="transformer."),
)
def smollm3(c: Reader) -> Arch:
    arch = decoder(c, theta=2e6, longest=32_768, kv_heads=4, tied=True)
    turned = _turned(c, arch.num_layers)
    window = read_window(c) if c.flag("use_sliding_window", False) else 0
    c.skip("sliding_window")
    arch = with_windows(c, arch, window, [not turns for turns in turned])
    pairs = zip(arch.layers, turned, strict=True)
    return arch.but(layers=tuple(Layer(layer.rope if turns else None, layer.window) for layer, turns in pairs))


def _turned(c: Reader, num_layers: int) -> list[bool]:
    """Which layers rotate: `no_rope_layers` has 1 for those, and 0 for those without."""
    every, listed = c.size("no_rope_layer_interval", 4), c.value("no_rope_layers")
    if listed is None:
        if every < 1:
            raise c.error("no_rope_layer_interval must be at least 1", every)
        return [bool((index + 1) % every) for index in range(num_layers)]
    if (
        not isinstance(listed, list)
        or len(listed) != num_layers
        or not all(isinstance(x, int) and x in (0, 1) for x in listed)
    ):
        raise c.error(f"no_rope_layers must be {num_layers} of 0 and 1", listed)
    return [bool(x) for x in listed]
