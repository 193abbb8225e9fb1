"""The table of families: model_type -> how its config becomes an `Arch`, and how its tensors are named."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from martlet.arch import Activation, Arch, Head, Parts, Reads, Task
from martlet.errors import ConfigError, UnknownFamilyError, UnsupportedError
from martlet.families.multimodal import text_rules
from martlet.families.reader import Reader, is_number
from martlet.formats.tensors import TensorSource
from martlet.weights import Rule, drop, rename

# Buffers that checkpoints of several years carry and every model computes for itself.
BUFFERS = (drop("rotary_emb.inv_freq"), drop(".attention.masked_bias"), drop(".attention.bias"))

# What a checkpoint's "architectures" call a head, after the family's stem.
CLASS_ENDINGS = {
    Task.SEQUENCE: "ForSequenceClassification",
    Task.TOKEN: "ForTokenClassification",
    Task.QUESTION: "ForQuestionAnswering",
    Task.CHOICE: "ForMultipleChoice",
}

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
    """How one family looks in a GGUF file: its `general.architecture` names, its config.json, its tensor names.

    `keys` are what it says of an `Arch` that all families do not, by short key.
    """

    names: tuple[str, ...]
    config: Callable[[Mapping[str, Any], TensorSource], dict[str, Any]]
    rules: tuple[Rule, ...] = (*GGUF_NAMES, *GGUF_PRE_NORMS)
    keys: Callable[[Arch], dict[str, Any]] = lambda arch: {}
    ties: bool = True  # whether llama.cpp reads a file without `output.weight`


@dataclass(frozen=True, slots=True)
class HeadForm:
    """How one family builds the head of a task: what it reads, its tensors' names, its dropout's keys."""

    out: str
    reads: Reads = Reads.EVERY
    bias: bool = True
    dense: str = ""
    activation: Activation | None = None  # after the dense matrix
    dropout: tuple[str, ...] = ()  # the first key that is there
    default_dropout: float = 0.0
    drops_first: bool = False
    prefix: str = ""  # before the base model's names, where this class has one of its own

    @property
    def rules(self) -> tuple[Rule, ...]:
        dense = (rename(f"^{self.dense}.", "^head.dense."),) if self.dense else ()
        return (*dense, rename(f"^{self.out}.", "^head.out."))

    def head(self, task: Task, num_labels: int, config: Mapping[str, Any]) -> Head:
        given = (config[key] for key in self.dropout if is_number(config.get(key)))
        rate = float(next(given, self.default_dropout))
        return Head(task, num_labels, self.reads, self.activation, self.bias, rate, self.drops_first)


def decoder_heads(*, token: str = "score", question_prefix: str = "") -> dict[Task, HeadForm]:
    """The heads of Hugging Face's decoders, which differ in two names."""
    return {
        Task.SEQUENCE: HeadForm("score", Reads.LAST, bias=False),
        Task.TOKEN: HeadForm(token, dropout=("classifier_dropout", "hidden_dropout"), default_dropout=0.1),
        Task.QUESTION: HeadForm("qa_outputs", prefix=question_prefix),
    }


@dataclass(frozen=True, slots=True)
class Family:
    """One model_type. `prefix` is what a checkpoint with a head puts before the names of its base model.

    `gguf_as` is the family under whose architecture this one is written in GGUF, where it has none of its own.
    """

    model_type: str
    read: Callable[[Reader], Arch]
    base_class: str  # Hugging Face's names, for "architectures" in what we save
    lm_class: str  # causal or masked
    rules: tuple[Rule, ...]
    prefix: str
    gguf: GgufDialect | None
    heads: Mapping[Task, HeadForm]
    gguf_as: str = ""

    def arch(self, config: Mapping[str, Any], harmless: Sequence[str] = ()) -> Arch:
        """The `Arch` of a config.json; raises `ConfigError` for what is missing, impossible or unread."""
        reader = Reader(config, f"{self.model_type} config")
        arch = self.read(reader)
        reader.finish(harmless)
        return arch

    def name_rules(self, names: Sequence[str], head: Head | None = None) -> tuple[Rule, ...]:
        """The rules for a checkpoint with these tensor names: one saved from the base model lacks the prefix."""
        own = self.rules + (self.heads[head.task].rules if head else ())
        if part := text_rules(names):
            return BUFFERS + part + own
        read: tuple[Rule, ...] = BUFFERS
        if any(name.endswith((".gamma", ".beta")) for name in names):  # norms in the first BERT files
            read += (rename(".gamma", ".weight"), rename(".beta", ".bias"))
        others = [form.prefix for form in self.heads.values() if form.prefix]
        others = [other for other in others if any(name.startswith(other) for name in names)]
        read += tuple(rename(f"^{other}", f"^{self.prefix}") for other in others)
        bare = self.prefix and not any(name.startswith((self.prefix, *others)) for name in names)
        if not bare:
            return read + own
        tops = sorted({name.split(".")[0] + "." for name in names} - {"lm_head.", "embed_out.", *self.head_names})
        return read + tuple(rename(f"^{top}", f"^{self.prefix}{top}") for top in tops) + own

    def saved_rules(self, head: Head | None) -> tuple[Rule, ...]:
        """The rules for what we save."""
        if head is None:
            return self.rules
        form = self.heads[head.task]
        base = (rename(f"^{form.prefix}", f"^{self.prefix}"),) if form.prefix else ()
        return base + self.rules + form.rules

    @property
    def head_names(self) -> frozenset[str]:
        """First parts of the names of every head's tensors, in checkpoints."""
        parts = [name for form in self.heads.values() for name in (form.out, form.dense) if name]
        return frozenset(part.split(".")[0] + "." for part in (*parts, "cls", "vocab_transform", "vocab_layer_norm"))

    def class_name(self, parts: Parts) -> str:
        """Hugging Face's name of a model with these parts."""
        if parts.head is not None:
            return self.base_class.removesuffix("Model") + CLASS_ENDINGS[parts.head.task]
        return self.lm_class if parts.lm_head else self.base_class

    def parts_of(self, config: Mapping[str, Any], arch: Arch, num_labels: int) -> Parts:
        """What the class under "architectures" has; without one we know, a causal model or an encoder's base."""
        named = classes_of(config)
        for task, form in self.heads.items():
            parts = self.parts_for(arch, form.head(task, 1 if task is Task.CHOICE else num_labels, config))
            if self.class_name(parts) in named:
                return parts
        if self.lm_class in named or (arch.causal and self.base_class not in named):
            return Parts(lm_head=True)
        return Parts(pooler=arch.pooler)

    def parts_for(self, arch: Arch, head: Head) -> Parts:
        return Parts(pooler=arch.pooler and head.reads is Reads.POOLED, head=head)


def classes_of(config: Mapping[str, Any]) -> Sequence[str]:
    """The classes a checkpoint was saved from, as "architectures" names them."""
    named = config.get("architectures") or ()
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise ConfigError("config.json", "architectures must be a list of class names", found=repr(named)[:80])
    return named


FAMILIES: dict[str, Family] = {}
MODULES = ("bert", "gemma", "gpt2", "gpt_neox", "granite", "llama", "olmo2", "opt", "phi", "phi3", "qwen", "smollm3")


def family(
    model_type: str,
    *,
    classes: tuple[str, str],
    rules: Sequence[Rule] = (),
    prefix: str = "model.",
    gguf: GgufDialect | None = None,
    heads: Mapping[Task, HeadForm] | None = None,
    gguf_as: str = "",
) -> Callable[[Callable[[Reader], Arch]], Callable[[Reader], Arch]]:
    """Registers a function `Reader -> Arch` as the family of a model_type; `classes` are (base, language model)."""

    def add(read: Callable[[Reader], Arch]) -> Callable[[Reader], Arch]:
        assert model_type not in FAMILIES, model_type
        forms = decoder_heads() if heads is None else heads
        FAMILIES[model_type] = Family(model_type, read, *classes, tuple(rules), prefix, gguf, forms, gguf_as)
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
    model_type, classes = config.get("model_type"), classes_of(config)
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    if model_type is None:
        for candidate in known.values():
            if candidate.base_class in classes or candidate.lm_class in classes:
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


def gguf_dialect(family: Family) -> GgufDialect:
    """How a family is written in GGUF: UnsupportedError where the format has no architecture for it."""
    dialect = load_families()[family.gguf_as].gguf if family.gguf_as else family.gguf
    if dialect is None:
        known = sorted(name for name, each in load_families().items() if each.gguf or each.gguf_as)
        raise UnsupportedError(
            f"{family.model_type} model",
            "GGUF has no architecture for this family",
            remedy=f"It has them for {', '.join(known)}. Save it as a folder.",
        )
    return dialect
