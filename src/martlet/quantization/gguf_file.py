"""A folder's checkpoint as a GGUF file: metadata, names, and whether these say all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import tensors
from martlet.checkpoint import Checkpoint
from martlet.families import gguf_dialect
from martlet.families.gguf_metadata import Tables, arch_metadata, check_said
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.tensors import Stored, TensorInfo, TensorSource
from martlet.generation.config import GenerationConfig
from martlet.generation.processors import id_list
from martlet.quantization.made import Encoded, Made
from martlet.quantization.retype import retyped_metadata
from martlet.tokenizers.gguf_saving import gguf_metadata
from martlet.weights import Assembly, assemble


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """What the file will hold: `made` are the matrices and vectors, by its names for them, out of ours."""

    metadata: dict[str, Any]
    tables: Tables
    made: dict[str, Assembly]


def plan_gguf(checkpoint: Checkpoint, tokenizer: Any) -> GgufPlan:
    """Metadata and names for a folder's checkpoint; UnsupportedError for what GGUF cannot say."""
    config, arch = checkpoint.config, checkpoint.arch
    dialect = gguf_dialect(config.family)
    said, tables = arch_metadata(arch, dialect)
    shapes = tensors(arch)
    made = assemble(list(shapes), dialect.rules, arch)
    check_said(arch, said, dialect, _Planned({name: _shape(one, shapes) for name, one in made.items()}, tables))
    name = os.path.basename(os.path.normpath(checkpoint.snapshot.name))
    general = {"general.architecture": said.pop("general.architecture"), "general.type": "model", "general.name": name}
    words = gguf_metadata(tokenizer, arch.vocab_size, _ends(checkpoint))
    return GgufPlan(general | said | words, tables, made)


def save_plan(plan: GgufPlan, values: Any, kinds: Mapping[str, str], out: str | os.PathLike[str]) -> None:
    """Writes the file. `values` is the trial that has our tensors; one of no type in `kinds` is in float32."""
    stored: dict[str, Stored] = {}
    counts: dict[str, int] = {}
    for name, one in plan.made.items():
        made, kind = Made(values, one), kinds.get(name, "F32")
        counts[kind] = counts.get(kind, 0) + int(np.prod(made.shape()))
        stored[name] = kind, made.shape(), Encoded(made, kind)
    for name, table in plan.tables.items():
        stored[name] = "F32", table.shape, np.ascontiguousarray(table, "<f4")
    save_gguf(out, retyped_metadata(plan.metadata, counts), stored)


def _ends(checkpoint: Checkpoint) -> list[int]:
    """Ids at which generation stops."""
    found = checkpoint.snapshot.file("generation_config.json")
    if found is not None:
        ends = GenerationConfig.from_pretrained(found.parent).eos_token_id
    else:
        ends = checkpoint.config.to_dict().get("eos_token_id")
    return [] if ends is None else id_list(ends)


def _shape(one: Assembly, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    shape = (sum(shapes[part][0] for part in one.parts), *shapes[one.parts[0]][1:])
    return shape[::-1] if one.transposed else shape


class _Planned(TensorSource):
    """Tensors that are not written yet: names and shapes, and the values of the tables."""

    metadata: Mapping[str, Any] = {}
    paths = ()

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], tables: Tables) -> None:
        self.tables = tables
        self.shapes = {**shapes, **{name: table.shape for name, table in tables.items()}}

    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def info(self, name: str) -> TensorInfo:
        shape = self.shapes[name]
        return TensorInfo(name, "F32", shape, 4 * int(np.prod(shape)))

    def raw(self, name: str) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.tables[name], "<f4").view(np.uint8)

    def close(self) -> None:
        return None
