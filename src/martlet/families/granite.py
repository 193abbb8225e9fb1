"""Granite 3: Llama with multipliers on embeddings, scores, what blocks add, and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch
from martlet.families.decoder import decoder
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.llama import UNPAIR
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, family
from martlet.formats.tensors import TensorSource

SCALES = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "granite", *SCALES.values())
    config |= {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS)}
    return config | {ours: keys.number(theirs, 1.0) for ours, theirs in SCALES.items()}


def _gguf_keys(arch: Arch) -> dict[str, Any]:
    scales = (arch.embed_scale, arch.score_scale, arch.residual_scale, 1 / arch.logit_scale)
    return dict(zip(SCALES.values(), scales, strict=True))


GGUF = GgufDialect(("granite",), _gguf, (*GGUF_NAMES, *GGUF_PRE_NORMS, *UNPAIR), _gguf_keys)


@family("granite", classes=("GraniteModel", "GraniteForCausalLM"), gguf=GGUF)
def granite(c: Reader) -> Arch:
    def multiplier(key: str) -> float:
        found = c.number(key, 1.0)
        if found <= 0:
            raise c.error(f"{key} must be above 0", found)
        return found

    return decoder(c).but(
        embed_scale=multiplier("embedding_multiplier"),
        attn_scale=multiplier("attention_multiplier"),
        residual_scale=multiplier("residual_multiplier"),
        logit_scale=1 / multiplier("logits_scaling"),
    )
