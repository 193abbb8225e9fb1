"""OLMo 2: each block's output is normalised rather than its input, and q and k over all heads together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, Placement, QKNorm
from martlet.families.decoder import decoder
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GgufDialect, family
from martlet.formats.tensors import TensorSource
from martlet.weights import rename


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "olmo2")
    return config | {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS)}


GGUF_NORMS = (
    rename(".post_attention_norm.", ".post_attention_layernorm."),
    rename(".post_ffw_norm.", ".post_feedforward_layernorm."),
)
GGUF = GgufDialect(("olmo2",), _gguf, (*GGUF_NAMES, *GGUF_NORMS), ties=False)


@family("olmo2", classes=("Olmo2Model", "Olmo2ForCausalLM"), gguf=GGUF)
def olmo2(c: Reader) -> Arch:
    c.neutral("mlp_bias", False)
    return decoder(c, eps=1e-5).but(placement=Placement.OUTPUT, qk_norm=QKNorm.FULL)
