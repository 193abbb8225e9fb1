"""A causal language model on the native engine: generates, loads no torch, is not trained. auto.py makes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from martlet.arch import Arch, whole
from martlet.checkpoint import HUB_KEYWORDS, Checkpoint, check_overrides, open_checkpoint, read_keywords
from martlet.engine import OPTIONS, EngineModel, EngineSession, begin_packing
from martlet.errors import ArgumentError, DeviceError, UnsupportedError
from martlet.families import Config
from martlet.formats.tensors import TensorSource
from martlet.weights import Piece

OWN = ("quantize", *OPTIONS)
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass
class InferenceModel:
    """What `AutoModelForCausalLM.from_pretrained(..., backend="native")` gives: `generate`, and what describes it."""

    config: Config
    engine: EngineModel
    name_or_path: str
    generation_config: Any = None
    device: str = "cpu"

    @property
    def arch(self) -> Arch:
        return self.engine.arch

    @property
    def dtype(self) -> Any:
        """What most matrices are kept in: torch's name of it where it has one and is loaded, else the kind's."""
        kinds = list(self.engine.kinds.values())
        kind = max(set(kinds), key=kinds.count)
        name = {kind: name for name, kind in DTYPES.items()}.get(kind, "")
        return getattr(sys.modules.get("torch"), name, kind)

    generates_on = "native"

    def open_session(
        self, kv_cache_bytes: int | None = None, kv_cache_dtype: Any = None, *, traces: bool = False
    ) -> EngineSession:
        """Rows to step through, for generation; with `kv_cache_bytes`, or another `kv_cache_dtype`, in memory of their
        own. UnsupportedError for `traces`: hidden states or attentions."""
        if traces:
            raise UnsupportedError(
                "native engine",
                "hidden states and attentions are not kept",
                remedy="Load the model with backend='torch'.",
            )
        return self.engine.open_session(kv_cache_bytes, kv_cache_dtype)

    def can_generate(self) -> bool:
        return True

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """UnsupportedError: the engine gives tokens."""
        raise UnsupportedError("native engine", "only generates", remedy="Load the model with backend='torch'.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"a model on the native engine has no {name!r}: load it with backend='torch' for a module")

    def save_pretrained(self, save_directory: str | os.PathLike[str], **keywords: Any) -> None:
        """UnsupportedError: weights are packed for this processor."""
        remedy = "Load the model with backend='torch', or use `martlet quantize`."
        raise UnsupportedError("native engine", "keeps weights packed, and saves none", remedy=remedy)

    def eval(self) -> InferenceModel:
        return self

    def to(self, device: Any) -> InferenceModel:
        """The engine runs on the CPU; DeviceError for any other device."""
        if str(device) != "cpu":
            raise DeviceError("native engine", "runs on the CPU", found=str(device), remedy="Pass backend='torch'.")
        return self

    def compute_transition_scores(
        self, sequences: Any, scores: tuple[Any, ...], beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """The score of each generated token; see `martlet.generation.outputs.compute_transition_scores`."""
        from martlet.generation.outputs import compute_transition_scores

        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)

    def generate(self, inputs: Any = None, generation_config: Any = None, **keywords: Any) -> Any:
        """Continues prompts; see `martlet.generation.generate.generate` for every keyword."""
        from martlet.generation.generate import generate

        return generate(self, inputs, generation_config, **keywords)


@dataclass
class Opened:
    """A checkpoint whose weights are found and checked, and not yet packed."""

    checkpoint: Checkpoint
    source: TensorSource
    pieces: Mapping[str, Piece]
    name: str
    own: Mapping[str, Any]  # keywords of the engine

    @property
    def stored(self) -> set[str]:
        """The types that matrices are stored in."""
        infos = (self.source.info(piece.source) for piece in self.pieces.values())
        return {info.dtype for info in infos if len(info.shape) > 1}

    def build(self, meanwhile: Callable[[], None] | None = None) -> InferenceModel:
        """The model, its weights packed. `meanwhile` is called while they are; what it raises ends the packing."""
        packing = begin_packing(self.checkpoint.arch, self.source, self.pieces, **self.own)
        if meanwhile is not None:
            meanwhile()
        return InferenceModel(self.checkpoint.config, packing.finish(), self.name)


def open_for_engine(
    name_or_path: str | os.PathLike[str], keywords: Mapping[str, Any], opened: Checkpoint | None = None
) -> Opened:
    """`from_pretrained` on the engine, up to the packing: matrices stay as stored, or as `quantize` ("int8", "int4")
    says. `opened` is the checkpoint of these names, if it was opened before.

    `num_threads`: all processors this process may use, unless given. `isa` names an instruction set.
    `kv_cache_bytes`: most memory for keys and values, of all that is generated at once; None: no limit.
    `kv_cache_dtype`: what they are kept in, "float16", "bfloat16" or "float32"; None or "auto": float32 for float32
    weights, else float16. Takes the torch backend's other keywords, but for devices that are not the CPU, and a `dtype`
    that the weights are not stored in.
    """
    keywords = dict(keywords)
    options = read_keywords(keywords)
    own = {name: keywords.pop(name, None) for name in OWN}
    device_map = options["device_map"]
    placed = set(map(str, device_map.values())) if isinstance(device_map, dict) else {str(device_map)}
    if not placed <= {"None", "cpu", "auto"}:
        raise DeviceError("device_map", "the native engine runs on the CPU", found=", ".join(sorted(placed)))
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    opened = opened or open_checkpoint(
        name_or_path,
        gguf_file=options["gguf_file"],
        config=options["config"],
        trust_remote_code=bool(options["trust_remote_code"]),
        harmless_config_keys=options["harmless_config_keys"] or (),
        overrides=keywords,
        **hub,
    )
    check_overrides(opened.config, keywords)
    source = opened.open_weights(options["use_safetensors"])
    found = Opened(opened, source, opened.locate(source, whole(opened.arch)), str(name_or_path), own)
    check_dtype(options["dtype"], found.stored)
    return found


def check_dtype(dtype: Any, stored: set[str]) -> None:
    """ArgumentError unless `dtype` is "auto" or what the matrices are stored in."""
    word = str(dtype).removeprefix("torch.")
    if word != "auto" and stored != {DTYPES.get(word)}:
        raise ArgumentError(
            "dtype",
            f"must be 'auto' with the native backend, or what is stored, {', '.join(sorted(stored))}: weights stay so",
            found=word,
            remedy="Pass backend='torch' for another, or quantize='int8' or 'int4' for smaller ones.",
        )
