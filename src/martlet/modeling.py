"""The models a user holds: torch modules that also load, save and generate. Made by auto.py."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from martlet import arch as arch_
from martlet.checkpoint import HUB_KEYWORDS, Checkpoint, check_overrides, open_checkpoint, read_keywords
from martlet.engine.reasons import say_why
from martlet.errors import ArgumentError, UnsupportedError
from martlet.families import Config
from martlet.formats.shards import save_sharded
from martlet.formats.tensors import TensorSource
from martlet.generation.outputs import compute_transition_scores
from martlet.handover import Handover
from martlet.nn.decoder import CausalLM, Decoder
from martlet.nn.devices import STORED, find_dtype, read_device_map
from martlet.nn.encoder import Encoder
from martlet.nn.load import fill, fill_new, fill_random, stored_dtype
from martlet.nn.packed import pack_layers
from martlet.nn.session import TorchSession
from martlet.nn.vocabulary import resized_embedding, resized_head, round_up
from martlet.weights import assemble, check_tied

WORDS = {dtype: word for word, dtype in STORED.items()}
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Saved:
    """What a base model and a causal LM share: where it came from, what it is made of, and how it is written."""

    arch: arch_.Arch
    parts: arch_.Parts
    config: Config
    name_or_path: str
    base_model_prefix = "model"
    main_input_name = "input_ids"

    @property
    def device(self) -> torch.device:
        """The device of the first weight."""
        return next(self.parameters()).device  # type: ignore[attr-defined,no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first weight."""
        return next(self.parameters()).dtype  # type: ignore[attr-defined,no-any-return]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Weights counted once each: all, those that training would change, or those not in an embedding table."""
        left_out = set()
        if exclude_embeddings:
            left_out = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}  # type: ignore[attr-defined]
        return sum(
            parameter.numel()
            for parameter in self.parameters()  # type: ignore[attr-defined]
            if id(parameter) not in left_out and (parameter.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights, and of the buffers too unless told otherwise."""
        held = [*self.parameters(), *(self.buffers() if return_buffers else ())]  # type: ignore[attr-defined]
        return sum(tensor.nbytes for tensor in held)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training computes activations twice to keep fewer of them."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())  # type: ignore[attr-defined]

    def enable_input_require_grads(self) -> None:
        """Makes what the embedding table gives need gradients, for training with its weights frozen."""
        self._inputs_hook = self.get_input_embeddings().register_forward_hook(  # type: ignore[attr-defined]
            lambda _, __, output: output.requires_grad_(True)
        )

    def disable_input_require_grads(self) -> None:
        self._inputs_hook.remove()

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Makes room for `new_num_tokens` ids, rounded up to a multiple; returns the embedding table.

        Rows that are new begin as the mean of the old ones, of the head too, whatever `mean_resizing` says: a row
        drawn at random would be likelier than all others. ArgumentError for fewer than one.
        """
        whole: Any = self
        decoder = whole.model if isinstance(whole, CausalLM) else whole
        asked = decoder.embed_tokens.num_embeddings if new_num_tokens is None else new_num_tokens
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise ArgumentError("new_num_tokens", "must be an integer of at least 1", found=repr(new_num_tokens))
        size = round_up(asked, pad_to_multiple_of)
        if size != decoder.embed_tokens.num_embeddings:
            decoder.embed_tokens = resized_embedding(decoder.embed_tokens, size)
            decoder.arch = self.arch = dataclasses.replace(self.arch, vocab_size=size)
            if isinstance(whole, CausalLM):
                whole.lm_head = resized_head(whole.lm_head, size)
                whole.tie_weights()
            self.config.vocab_size = size
        table: nn.Embedding = decoder.embed_tokens
        return table

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        state_dict: Mapping[str, Tensor] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Writes config.json and safetensors under Hugging Face's names, so that transformers loads them.

        Files are written aside and renamed: what was there before survives a failure. SaveError if the disk is full.
        """
        if not safe_serialization:
            raise ArgumentError("safe_serialization", "must be True: pickles are read, never written", found=False)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        family, is_body = self.config.family, isinstance(self, Decoder)
        weights = dict(state_dict if state_dict is not None else self.state_dict())  # type: ignore[attr-defined]
        ours = {f"model.{name}" if is_body else name: weight for name, weight in weights.items()}
        names = list(arch_.tensors(self.arch, self.parts))
        gone = [name for name in names if name not in ours]
        if gone:
            raise ArgumentError(
                "save_pretrained",
                "must have every tensor of the model",
                found=f"{len(gone)} missing: {', '.join(gone[:3])}",
                remedy="Adapters are saved by PeftModel.save_pretrained, or go into the weights by merge_and_unload.",
            )
        stored = {}
        for name, assembly in assemble(names, family.saved_rules(self.parts.head), self.arch).items():
            if is_body:
                name = name.removeprefix(family.prefix)
            stored[name] = _stored(assembly, ours)
        save_sharded(folder, stored, read_bytes(max_shard_size), {"format": "pt"})
        kind = family.class_name(self.parts)
        dtype = str(self.dtype).removeprefix("torch.")
        self.config.but(architectures=[kind], model_type=family.model_type, dtype=dtype).save_pretrained(folder)


class ModelForCausalLM(Saved, CausalLM):
    """A causal language model: call it for logits, `generate` for text."""

    generation_config: Any
    can_generate_text = True

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch)
        self.config, self.name_or_path = config, ""
        self.asked = config
        self.handover = Handover()

    def open_session(
        self, kv_cache_bytes: int | None = None, kv_cache_dtype: Any = None, *, traces: bool = False
    ) -> Any:
        """Rows to step through, for generation: on the native engine where it does what this module does, else on
        torch, which the log says once. `traces`: hidden states or attentions will be asked for.
        """
        engine = self.handover.engine(self, traces=traces)
        if isinstance(engine, str):
            asked = {"kv_cache_bytes": kv_cache_bytes, "kv_cache_dtype": kv_cache_dtype} | self.handover.options
            for name, value in asked.items():
                if value is not None:
                    raise UnsupportedError(name, "is for the native engine", found=f"torch: {engine}")
            say_why(engine)
            return TorchSession(self)
        return engine.open_session(kv_cache_bytes, kv_cache_dtype)

    @property
    def generates_on(self) -> str:
        """ "native", or "torch" and why. Packs the weights for the engine if they are not."""
        engine = self.handover.engine(self)
        return f"torch: {engine}" if isinstance(engine, str) else "native"

    def can_generate(self) -> bool:
        return True

    def generate(self, inputs: Any = None, generation_config: Any = None, **keywords: Any) -> Any:
        """Continues prompts; see `martlet.generation.generate.generate` for every keyword."""
        from martlet.generation.generate import generate

        was_training = self.training
        self.eval()
        try:
            return generate(self, inputs, generation_config, **keywords)
        finally:
            self.train(was_training)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **keywords: Any) -> None:
        """As `Saved.save_pretrained`, with generation_config.json beside it."""
        super().save_pretrained(save_directory, **keywords)
        self.generation_config.save_pretrained(save_directory)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        """The model without its head."""
        return self.model

    @property
    def base_model(self) -> nn.Module:
        """The model without its head."""
        return self.model

    def compute_transition_scores(
        self, sequences: Any, scores: tuple[Any, ...], beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """The score of each generated token; see `martlet.generation.outputs.compute_transition_scores`."""
        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Training computes each block's activations twice. `use_reentrant` may be given and changes no result."""
        unknown = sorted(set(gradient_checkpointing_kwargs or ()) - {"use_reentrant"})
        if unknown:
            raise ArgumentError("gradient_checkpointing_kwargs", "may hold use_reentrant", found=", ".join(unknown))
        self.model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        self.model.gradient_checkpointing = False


class Model(Saved, Decoder):
    """A decoder without its head: call it for `last_hidden_state`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.arch)
        self.config, self.name_or_path = config, ""
        self.asked = config

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def can_generate(self) -> bool:
        return False


class EncoderModel(Saved, Encoder):
    """An encoder without a head: call it for `last_hidden_state` and `pooler_output`."""

    def __init__(self, config: Config, *, pooler: bool | None = None) -> None:
        super().__init__(config.arch, pooler=config.arch.pooler if pooler is None else pooler)
        self.config, self.name_or_path = config, ""
        self.asked = config

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def can_generate(self) -> bool:
        return False


def base_model(config: Config, pooler: bool | None = None) -> Model | EncoderModel:
    """An empty `AutoModel`; `pooler` False leaves an encoder's out."""
    if config.arch.causal:
        if pooler is not None:
            raise ArgumentError("add_pooling_layer", "is for encoders", found=config.family.model_type)
        return Model(config)
    if pooler and not config.arch.pooler:
        raise ArgumentError("add_pooling_layer", f"{config.family.model_type} models have no pooler", found=True)
    return EncoderModel(config, pooler=pooler)


def causal_model(config: Config) -> ModelForCausalLM:
    """An empty causal language model; UnsupportedError for an encoder."""
    if not config.arch.causal:
        raise UnsupportedError(
            f"{config.family.model_type} model",
            "every token sees the whole row, so it cannot continue text",
            remedy="Load it with AutoModel, AutoModelForMaskedLM or a classification class.",
        )
    return ModelForCausalLM(config)


def load_model(
    build: Callable[[Config], Any],
    name_or_path: Any,
    keywords: dict[str, Any],
    find_new: Callable[[Checkpoint, TensorSource, Any], Collection[str]] | None = None,
    *,
    on_torch: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """`from_pretrained`: files found, config read, names and shapes checked, weights mapped. Fails closed.

    Returns the opened checkpoint and the model; `keywords` are `read_keywords`' and keys of config.json. `build` makes
    the model without memory, `find_new` names the tensors that the user lets be new. `on_torch`: it generates there.
    `quantize` among them keeps the matrices of blocks frozen in blocks (nn/packed.py). `options` are the engine's.
    """
    read = read_keywords(keywords)
    quantize = keywords.pop("quantize", None)
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    opened = open_checkpoint(
        name_or_path,
        gguf_file=read["gguf_file"],
        config=read["config"],
        trust_remote_code=bool(read["trust_remote_code"]),
        harmless_config_keys=read["harmless_config_keys"] or (),
        overrides=keywords,
        **hub,
    )
    check_overrides(opened.config, keywords)
    with torch.device("meta"):
        model = build(opened.config)
    source = opened.open_weights(read["use_safetensors"])
    new = set() if find_new is None else set(find_new(opened, source, model))
    pieces = opened.locate(source, model.parts, new=new)
    if model.parts.lm_head:
        check_tied(source, pieces, opened.arch)
    if quantize is not None:
        pack_layers(model, source, pieces, quantize)
    modules = [name for name, module in model.named_modules() if name and not list(module.children())]
    placed = read_device_map(read["device_map"], modules)
    dtype = _pick_dtype(read["dtype"], opened.config, lambda: stored_dtype(source, pieces))
    fill(model, source, pieces, dtype, placed)
    fill_new(model, sorted(new - set(pieces)), dtype, placed, _spread(opened.config))
    model.name_or_path = str(name_or_path)
    if isinstance(model, ModelForCausalLM):
        is_packed = any(source.info(piece.source).dtype not in STORED for piece in pieces.values())
        as_stored = is_packed and read["dtype"] == "auto" and not on_torch
        model.handover = Handover((source, pieces) if as_stored else None, wanted=not on_torch, options=options)
        model.handover.mark_loaded(model)
    return opened, model.eval()


def build_model(build: Callable[[Config], Any], config: Config, keywords: dict[str, Any]) -> Any:
    """`from_config`: fresh weights, drawn from torch's generator. Other keywords override keys of the config."""
    keywords = dict(keywords)
    options = read_keywords(keywords)
    config = config.but(**keywords) if keywords else config
    check_overrides(config, keywords)
    with torch.device("meta"):
        model = build(config)
    fill_random(model, _pick_dtype(options["dtype"], config, torch.get_default_dtype), _spread(config))
    return model


def _spread(config: Config) -> float:
    """Standard deviation of fresh weights."""
    return float(config.get("initializer_range") or config.get("init_std") or 0.02)


def _pick_dtype(wanted: Any, config: Config, otherwise: Callable[[], torch.dtype]) -> torch.dtype:
    if wanted != "auto":
        return find_dtype(wanted)
    said = config.get("dtype") or config.get("torch_dtype")
    return find_dtype(said) if said else otherwise()


def _stored(assembly: Any, ours: Mapping[str, Tensor]) -> tuple[str, tuple[int, ...], Callable[[], Any]]:
    """Dtype, shape and bytes of one checkpoint tensor; the bytes are made when the writer comes to them."""

    def build() -> Tensor:
        out: Tensor = assembly.build(lambda name: ours[name].detach().cpu(), torch.cat)
        return out

    with torch.device("meta"):
        shape = assembly.build(lambda name: torch.empty_like(ours[name], device="meta"), torch.cat).shape
    first = ours[assembly.parts[0]]
    return WORDS[first.dtype], tuple(shape), lambda: build().contiguous().view(-1).view(torch.uint8).numpy()


def read_bytes(size: int | str) -> int:
    """A number of bytes, or a string such as "5GB"."""
    if isinstance(size, int):
        return size
    for unit in sorted(UNITS, key=len, reverse=True):
        if size.upper().endswith(unit):
            try:
                return math.floor(float(size[: -len(unit)]) * UNITS[unit])
            except ValueError:
                break
    raise ArgumentError("max_shard_size", "must be a number of bytes or a string such as '5GB'", found=repr(size))
