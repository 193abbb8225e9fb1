"""OLMo 2: each block's output is normalised rather than its input, and q and k over all heads together."""

from __future__ import annotations

from martlet.arch import Arch, Placement, QKNorm
from martlet.families.llama import decoder
from martlet.families.reader import Reader
from martlet.families.registry import family


@family("olmo2", classes=("Olmo2Model", "Olmo2ForCausalLM"))
def olmo2(c: Reader) -> Arch:
    c.neutral("mlp_bias", False)
    return decoder(c, eps=1e-5).but(placement=Placement.OUTPUT, qk_norm=QKNorm.FULL)
