"""A causal language model on the native engine: generates, loads no torch, is not trained. auto.py makes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from martlet.arch import Arch, whole
from martlet.checkpoint import HUB_KEYWORDS, Checkpoint, check_overrides, open_checkpoint, read_keywords
from martlet.engine import EngineModel, EngineSession, build_engine_model
from martlet.errors import ArgumentError, DeviceError
from martlet.families import Config

OWN = ("quantize", "num_threads", "isa")


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
    def dtype(self) -> str:
        """How most matrices are packed."""
        kinds = list(self.engine.kinds.values())
        return max(set(kinds), key=kinds.count)

    def open_session(self) -> EngineSession:
        """Rows to step through, for generation."""
        return self.engine.open_session()

    def can_generate(self) -> bool:
        return True

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


def load_inference_model(
    name_or_path: str | os.PathLike[str], keywords: dict[str, Any]
) -> tuple[Checkpoint, InferenceModel]:
    """`from_pretrained` on the engine: matrices stay as they are stored, or as `quantize` ("int8", "int4") says.

    `num_threads`: all processors this process may use, unless given. `isa` names an instruction set. Takes the torch
    backend's other keywords, but for `dtype` and devices that are not the CPU.
    """
    own = {name: keywords.pop(name, None) for name in OWN}
    options = read_keywords(keywords)
    if options["dtype"] != "auto":
        raise ArgumentError(
            "dtype",
            "must be 'auto' with the native backend: weights stay as they are stored",
            found=options["dtype"],
            remedy="Pass quantize='int8' or 'int4' for smaller ones.",
        )
    device_map = options["device_map"]
    placed = set(map(str, device_map.values())) if isinstance(device_map, dict) else {str(device_map)}
    if not placed <= {"None", "cpu", "auto"}:
        raise DeviceError("device_map", "the native engine runs on the CPU", found=", ".join(sorted(placed)))
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    opened = open_checkpoint(
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
    pieces = opened.locate(source, whole(opened.arch))
    engine = build_engine_model(opened.arch, source, pieces, **own)
    return opened, InferenceModel(opened.config, engine, str(name_or_path))
