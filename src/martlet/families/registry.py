"""The table of families: model_type -> how its config becomes an `Arch`, and how its tensors are named."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from martlet.arch import Arch
from martlet.errors import UnknownFamilyError
from martlet.families.reader import Reader
from martlet.formats.tensors import TensorSource
from martlet.weights import Rule, drop, rename

# Buffers that checkpoints of several years carry and every model computes for itself.
BUFFERS = (drop("rotary_emb.inv_freq"), drop(".attention.masked_bias"), drop(".attention.bias"))

# llama.cpp's tensor names are the same for every family, but for the norms and what is fused.
GGUF_NAMES = (
    drop("rope_freqs.weight"),
    drop("rope_factors_long.weight"),
    drop("rope_factors_short.weight"),
    rename("^token_embd.", "^model.embed_tokens."),
    rename("^position_embd.", "^model.embed_positions."),
    rename("^output_norm.", "^model.norm."),
    rename("^output.", "^lm_head."),
    rename("^blk.", "^model.layers."),
    rename(".attn_q_norm.", ".self_attn.q_norm."),
    rename(".attn_k_norm.", ".self_attn.k_norm."),
    rename(".attn_q.", ".self_attn.q_proj."),
    rename(".attn_k.", ".self_attn.k_proj."),
    rename(".attn_v.", ".self_attn.v_proj."),
    rename(".attn_output.", ".self_attn.o_proj."),
    rename(".ffn_gate.", ".mlp.gate_proj."),
    rename(".ffn_up.", ".mlp.up_proj."),
    rename(".ffn_down.", ".mlp.down_proj."),
)
GGUF_PRE_NORMS = (
    rename(".attn_norm.", ".input_layernorm."),
    rename(".ffn_norm.", ".post_attention_layernorm."),
)


@dataclass(frozen=True, slots=True)
class GgufDialect:
    """How one family looks in a GGUF file: its `general.architecture` names, its config.json, its tensor names."""

    names: tuple[str, ...]
    config: Callable[[Mapping[str, Any], TensorSource], dict[str, Any]]
    rules: tuple[Rule, ...] = (*GGUF_NAMES, *GGUF_PRE_NORMS)


@dataclass(frozen=True, slots=True)
class Family:
    """One model_type. `prefix` is what a causal-LM checkpoint puts before the names of its base model."""

    model_type: str
    read: Callable[[Reader], Arch]
    base_class: str  # Hugging Face's names, for "architectures" in what we save
    causal_lm_class: str
    rules: tuple[Rule, ...]
    prefix: str
    gguf: GgufDialect | None

    def arch(self, config: Mapping[str, Any], harmless: Sequence[str] = ()) -> Arch:
        """The `Arch` of a config.json; raises `ConfigError` for what is missing, impossible or unread."""
        reader = Reader(config, f"{self.model_type} config")
        arch = self.read(reader)
        reader.finish(harmless)
        return arch

    def name_rules(self, names: Sequence[str]) -> tuple[Rule, ...]:
        """The rules for a checkpoint with these tensor names: one saved from the base model lacks the prefix."""
        bare = self.prefix and not any(name.startswith(self.prefix) for name in names)
        if not bare:
            return BUFFERS + self.rules
        heads = ("lm_head.", "embed_out.")
        tops = sorted({name.split(".")[0] + "." for name in names} - set(heads))
        return BUFFERS + tuple(rename(f"^{top}", f"^{self.prefix}{top}") for top in tops) + self.rules


FAMILIES: dict[str, Family] = {}
MODULES = ("gemma", "gpt2", "gpt_neox", "granite", "llama", "olmo2", "opt", "phi", "phi3", "qwen", "smollm3")


def family(
    model_type: str,
    *,
    classes: tuple[str, str],
    rules: Sequence[Rule] = (),
    prefix: str = "model.",
    gguf: GgufDialect | None = None,
) -> Callable[[Callable[[Reader], Arch]], Callable[[Reader], Arch]]:
    """Registers a function `Reader -> Arch` as the family of a model_type; `classes` are (base, causal LM)."""

    def add(read: Callable[[Reader], Arch]) -> Callable[[Reader], Arch]:
        assert model_type not in FAMILIES, model_type
        FAMILIES[model_type] = Family(model_type, read, *classes, tuple(rules), prefix, gguf)
        return read

    return add


def load_families() -> dict[str, Family]:
    """Every family there is, by model_type."""
    for module in MODULES:
        importlib.import_module(f"martlet.families.{module}")
    return FAMILIES


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a config.json. An unknown one is an error that names the nearest; no code of it is run."""
    known = load_families()
    model_type, classes = config.get("model_type"), config.get("architectures")
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    if model_type is None and isinstance(classes, list):
        for candidate in known.values():
            if candidate.base_class in classes or candidate.causal_lm_class in classes:
                return candidate
    near = difflib.get_close_matches(str(model_type), known, 2, 0.5)
    custom = " The checkpoint names code of its own (auto_map); none of it was run." if "auto_map" in config else ""
    if "text_config" in config:
        custom = " This is a multimodal checkpoint (it has a text_config), of which martlet has none." + custom
    raise UnknownFamilyError(
        "config.json",
        "model_type must be one martlet has",
        found=repr(model_type),
        remedy=(f"Nearest: {', '.join(near)}. " if near else "")
        + f"Supported: {', '.join(sorted(known))}.{custom} To add one: docs/add-a-family.md.",
    )


def find_gguf_family(architecture: str) -> Family:
    """The family whose GGUF files say `general.architecture` = `architecture`."""
    known = load_families()
    dialects = {name: each for each in known.values() if each.gguf for name in each.gguf.names}
    if architecture in dialects:
        return dialects[architecture]
    near = difflib.get_close_matches(architecture, dialects, 2, 0.5)
    raise UnknownFamilyError(
        "GGUF file",
        "general.architecture must be one martlet has",
        found=repr(architecture),
        remedy=(f"Nearest: {', '.join(near)}. " if near else "") + f"Supported: {', '.join(sorted(dialects))}.",
    )
