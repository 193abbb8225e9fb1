"""Granite 3: Llama with multipliers on embeddings, scores, what blocks add, and logits."""

from __future__ import annotations

from martlet.arch import Arch
from martlet.families.llama import decoder
from martlet.families.reader import Reader
from martlet.families.registry import family


@family("granite", classes=("GraniteModel", "GraniteForCausalLM"))
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
