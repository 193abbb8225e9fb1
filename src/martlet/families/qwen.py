"""Qwen2 is Llama with biased q, k and v; Qwen3 normalises q and k per head instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, QKNorm
from martlet.families.decoder import decoder, read_window, with_windows
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GgufDialect, decoder_heads, family
from martlet.formats.tensors import TensorSource

HEADS = decoder_heads(question_prefix="transformer.")


def _qwen(c: Reader, head_dim: int | None = None) -> Arch:
    arch = decoder(c, longest=32_768, head_dim=head_dim)
    first = c.size("max_window_layers", 28)
    window = read_window(c, 4096) if c.flag("use_sliding_window", False) else 0
    c.skip("sliding_window")
    return with_windows(c, arch, window, [index >= first for index in range(arch.num_layers)])


def _gguf(model_type: str) -> GgufDialect:
    def config(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
        keys, found = common_config(metadata, source, model_type)
        return found | {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS)}

    return GgufDialect((model_type,), config)


@family("qwen2", classes=("Qwen2Model", "Qwen2ForCausalLM"), gguf=_gguf("qwen2"), heads=HEADS)
def qwen2(c: Reader) -> Arch:
    return _qwen(c).but(qkv_bias=True, out_bias=False)


@family("qwen3", classes=("Qwen3Model", "Qwen3ForCausalLM"), gguf=_gguf("qwen3"), heads=HEADS)
def qwen3(c: Reader) -> Arch:
    return _qwen(c, c.size("head_dim", 128)).but(qk_norm=QKNorm.HEAD)
