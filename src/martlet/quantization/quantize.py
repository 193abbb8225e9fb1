"""A checkpoint made smaller: opened, its types chosen, saved as a folder or as GGUF, read back and measured."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import Arch, Parts, tensors, whole
from martlet.checkpoint import Checkpoint
from martlet.engine import build_engine_model
from martlet.engine.encode import encode
from martlet.engine.trial import Trial
from martlet.errors import ArgumentError, EmptyPromptError, SaveError, UnsupportedError
from martlet.formats.files import save_error
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.packed import KEY, packed_config, packed_shape
from martlet.formats.shards import save_sharded
from martlet.formats.tensors import Stored, TensorSource
from martlet.quantization.calibration import TEXT
from martlet.quantization.choice import LADDERS, Divergences, Unit, check_bits, choose, is_matrix
from martlet.quantization.retype import retype_gguf
from martlet.weights import Piece, assemble

SHARD_BYTES = 5_000_000_000
Say = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What was done. Bytes are of the matrices whose type was chosen."""

    out: Path
    units: tuple[Unit, ...]
    bytes_before: int
    bytes_after: int
    bits: float  # of a weight, on average
    divergences: Divergences
    num_tokens: int

    @property
    def kinds(self) -> dict[str, int]:
        """How many tensors are of each type."""
        kinds: dict[str, int] = {}
        for unit in self.units:
            kinds[unit.kind] = kinds.get(unit.kind, 0) + 1
        return kinds


def quantize(
    checkpoint: Checkpoint,
    tokenizer: Any,
    to: str,
    out: str | os.PathLike[str],
    *,
    text: str | None = None,
    num_tokens: int = 192,
    bits: float | None = None,
    num_threads: int | None = None,
    said: Say = lambda done, total, name: None,
) -> Report:
    """Chooses a type for each matrix by measured divergence on `text`, and saves the model at `out`.

    `to`: "int4" or "int8". `out`: a folder that is not there yet, or a .gguf file, which is replaced whole.
    `bits` of a weight that may be spent on average. ArgumentError, UnsupportedError, SaveError.
    """
    if to not in LADDERS:
        raise ArgumentError("quantize", f"must be one of {', '.join(LADDERS)}", found=repr(to))
    spent, out = check_bits(to, bits), Path(out)
    is_file = out.suffix == ".gguf"
    _check_out(out, is_file=is_file)
    if is_file and checkpoint.gguf is None:
        raise UnsupportedError(
            str(out),
            "GGUF is written from GGUF alone",
            found="a folder",
            remedy="Convert the folder to an F16 or BF16 GGUF file first, or give --out a folder.",
        )
    arch, source = checkpoint.arch, checkpoint.open_weights()
    pieces = checkpoint.locate(source, whole(arch))
    ids = _read_ids(tokenizer, text, min(num_tokens, arch.max_position_embeddings))
    model = build_engine_model(arch, source, pieces, num_threads=num_threads)
    trial = Trial(model, source, pieces, ids)
    units = _file_units(source, pieces, arch) if is_file else _folder_units(checkpoint, arch)
    before = sum(source.info(name).num_bytes for name in {pieces[part].source for unit in units for part in unit.parts})
    divergences = choose(trial, units, to, spent, said)
    kinds = {unit.name: unit.kind for unit in units}
    if is_file:
        retype_gguf(source, out, lambda info: kinds.get(info.name, info.dtype))
    else:
        _save_folder(checkpoint, tokenizer, trial, kinds, out)
    after, weights = sum(unit.bytes for unit in units), sum(unit.num_weights for unit in units)
    return Report(out, tuple(units), before, after, 8 * after / weights, divergences, len(ids))


def _check_out(out: Path, *, is_file: bool) -> None:
    """Before an hour of work: what cannot be written is refused."""
    if is_file:
        if out.is_dir():
            raise ArgumentError(str(out), "must be a file or not be there", found="a folder")
    elif out.exists():
        raise ArgumentError(str(out), "must not be there yet", remedy="Remove it, or name another folder.")
    if not out.absolute().parent.is_dir():
        raise ArgumentError(str(out), "must lie in a folder that is there", found=f"no {out.absolute().parent}")


def _read_ids(tokenizer: Any, text: str | None, num_tokens: int) -> list[int]:
    ids = list(tokenizer.encode(TEXT if text is None else text))[:num_tokens]
    if len(ids) < 2:
        raise EmptyPromptError("calibration text", "must have at least two tokens", found=len(ids))
    return ids


def _file_units(source: TensorSource, pieces: Mapping[str, Piece], arch: Arch) -> list[Unit]:
    """A GGUF file's tensors that are matrices."""
    parts: dict[str, list[str]] = {}
    for name in tensors(arch):
        if is_matrix(name, arch):
            parts.setdefault(pieces[name].source, []).append(name)
    units = []
    for name, names in parts.items():
        if any(pieces[each].transposed or pieces[each].added for each in names):
            continue
        units.append(Unit(name, tuple(names), source.info(name).shape))
    return _some(units)


def _folder_units(checkpoint: Checkpoint, arch: Arch) -> list[Unit]:
    """The matrices of the folder that is saved. One that lies transposed there keeps its type."""
    shapes = tensors(arch)
    units = []
    for name, made in assemble(list(shapes), checkpoint.config.family.saved_rules(None), arch).items():
        if made.transposed or made.added or not all(is_matrix(part, arch) for part in made.parts):
            continue
        rows = sum(shapes[part][0] for part in made.parts)
        units.append(Unit(name, made.parts, (rows, shapes[made.parts[0]][1])))
    return _some(units)


def _some(units: list[Unit]) -> list[Unit]:
    if not units:
        raise UnsupportedError(
            "quantize", "the matrices of this family lie transposed, where blocks would run across rows"
        )
    return units


def _save_folder(checkpoint: Checkpoint, tokenizer: Any, trial: Trial, kinds: Mapping[str, str], out: Path) -> None:
    """Weights, config, generation config and tokenizer, written in a folder beside `out` that then takes its name."""
    from martlet.generation.config import GenerationConfig

    config, arch = checkpoint.config, trial.arch
    stored: dict[str, Stored] = {}
    types: dict[str, str] = {}
    for name, made in assemble(list(tensors(arch)), config.family.saved_rules(None), arch).items():
        build = _Built(trial, made)
        kind = kinds.get(name)
        if kind in BLOCKS:
            types[name] = kind
            shape = build.shape()
            stored[name] = ("U8", packed_shape(kind, shape), _Encoded(build, kind))
        else:
            plain = kind or trial.source.info(trial.pieces[made.parts[0]].source).dtype
            plain = plain if plain in ("F16", "BF16") else "F32"
            stored[name] = (plain, build.shape(), _Encoded(build, plain))
    aside = out.absolute().with_name(f".{out.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        aside.mkdir()
        save_sharded(aside, stored, SHARD_BYTES, {"format": "pt"})
        kind_of_model = config.family.class_name(Parts(lm_head=True))
        saved = config.but(architectures=[kind_of_model], model_type=config.family.model_type, dtype="float32")
        saved.but(**{KEY: packed_config(types)}).save_pretrained(aside)
        found = checkpoint.snapshot.file("generation_config.json") if checkpoint.gguf is None else None
        if found is not None:
            GenerationConfig.from_pretrained(found.parent).save_pretrained(aside)
        else:
            GenerationConfig.from_model_config(config.to_dict()).save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        os.rename(aside, out)
    except SaveError:
        raise
    except OSError as problem:
        raise save_error(out, problem) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Built:
    """A tensor as it is saved, out of ours."""

    def __init__(self, trial: Trial, made: Any) -> None:
        self.trial, self.made = trial, made

    def shape(self) -> tuple[int, ...]:
        shapes = self.trial.shapes
        rows = sum(shapes[part][0] for part in self.made.parts)
        shape = (rows, *shapes[self.made.parts[0]][1:])
        return shape[::-1] if self.made.transposed else shape

    def values(self) -> NDArray[np.float32]:
        def join(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            return np.concatenate(parts)

        return np.ascontiguousarray(self.made.build(self.trial.values, join), np.float32)


class _Encoded:
    """Its bytes, made when they are written."""

    def __init__(self, built: _Built, kind: str) -> None:
        self.built, self.kind = built, kind

    def __call__(self) -> NDArray[np.uint8]:
        values = self.built.values()
        return encode(values.reshape(-1, values.shape[-1]), self.kind, self.built.trial.model.num_threads)
