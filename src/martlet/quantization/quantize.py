"""A checkpoint made smaller: opened, its types chosen, saved as a folder or as GGUF, read back and measured."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from martlet.arch import Arch, Parts, tensors, whole
from martlet.checkpoint import Checkpoint
from martlet.engine import build_engine_model
from martlet.engine.trial import Trial
from martlet.errors import ArgumentError, EmptyPromptError, SaveError, UnsupportedError
from martlet.formats.files import save_error
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.packed import KEY, packed_config, packed_shape
from martlet.formats.shards import save_sharded
from martlet.formats.tensors import Stored, TensorSource
from martlet.quantization.calibration import TEXT
from martlet.quantization.choice import LADDERS, UNIFORM, Divergences, Unit, check_bits, choose, is_matrix, put_all
from martlet.quantization.gguf_file import plan_gguf, save_plan
from martlet.quantization.made import Encoded, Made
from martlet.quantization.retype import retype_gguf
from martlet.weights import Assembly, Piece, assemble

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
    format: str | None = None,
    num_threads: int | None = None,
    said: Say = lambda done, total, name: None,
) -> Report:
    """Saves the model at `out` with its matrices in other types, and measures the divergence on `text`.

    `to`: "int4" or "int8" chooses a type for each matrix by measured divergence, within `bits` of a weight on average;
    a type of `UNIFORM` is taken by all. `format`: "folder", one that is not there yet, or "gguf", a file that is
    replaced whole; by default what the name of `out` says. ArgumentError, UnsupportedError, SaveError.
    """
    if to not in LADDERS and to not in UNIFORM:
        raise ArgumentError("quantize", f"must be one of {', '.join([*LADDERS, *UNIFORM])}", found=repr(to))
    spent, out = check_bits(to, bits), Path(out)
    is_file = _is_file(out, format)
    _check_out(out, is_file=is_file)
    plan = plan_gguf(checkpoint, tokenizer) if is_file and checkpoint.gguf is None else None
    arch, source = checkpoint.arch, checkpoint.open_weights()
    pieces = checkpoint.locate(source, whole(arch))
    ids = _read_ids(tokenizer, text, min(num_tokens, arch.max_position_embeddings))
    model = build_engine_model(arch, source, pieces, num_threads=num_threads)
    trial = Trial(model, source, pieces, ids)
    if plan is not None:
        units = _made_units(plan.made, arch)
    elif is_file:
        units = _file_units(source, pieces, arch)
    else:
        units = _made_units(assemble(list(tensors(arch)), checkpoint.config.family.saved_rules(None), arch), arch)
    before = sum(source.info(name).num_bytes for name in {pieces[part].source for unit in units for part in unit.parts})
    divergences = choose(trial, units, to, spent, said) if to in LADDERS else put_all(trial, units, to.upper(), said)
    kinds = {unit.name: unit.kind for unit in units}
    if plan is not None:
        save_plan(plan, trial, kinds, out)
    elif is_file:
        retype_gguf(source, out, lambda info: kinds.get(info.name, info.dtype))
    else:
        _save_folder(checkpoint, tokenizer, trial, kinds, out)
    after, weights = sum(unit.bytes for unit in units), sum(unit.num_weights for unit in units)
    return Report(out, tuple(units), before, after, 8 * after / weights, divergences, len(ids))


def _is_file(out: Path, format: str | None) -> bool:
    """Whether a GGUF file is asked for; ArgumentError where name and format say different things."""
    if format not in (None, "gguf", "folder"):
        raise ArgumentError("format", "must be gguf or folder", found=repr(format))
    if format == "gguf" and out.suffix != ".gguf":
        raise ArgumentError(str(out), "must end in .gguf, by which it is known as a file of that format")
    if format == "folder" and out.suffix == ".gguf":
        raise ArgumentError(str(out), "must not end in .gguf, as a folder is asked for")
    return out.suffix == ".gguf"


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


def _made_units(made: Mapping[str, Assembly], arch: Arch) -> list[Unit]:
    """The matrices of what is saved. One that lies transposed there keeps its type."""
    shapes = tensors(arch)
    units = []
    for name, one in made.items():
        if one.transposed or one.added or not all(is_matrix(part, arch) for part in one.parts):
            continue
        rows = sum(shapes[part][0] for part in one.parts)
        units.append(Unit(name, one.parts, (rows, shapes[one.parts[0]][1])))
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
        build = Made(trial, made)
        kind = kinds.get(name)
        if kind in BLOCKS:
            types[name] = kind
            shape = build.shape()
            stored[name] = ("U8", packed_shape(kind, shape), Encoded(build, kind))
        else:
            plain = kind or trial.source.info(trial.pieces[made.parts[0]].source).dtype
            plain = plain if plain in ("F16", "BF16") else "F32"
            stored[name] = (plain, build.shape(), Encoded(build, plain))
    aside = out.absolute().with_name(f".{out.name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        aside.mkdir()
        save_sharded(aside, stored, SHARD_BYTES, {"format": "pt"})
        kind_of_model = config.family.class_name(Parts(lm_head=True))
        saved = config.but(architectures=[kind_of_model], model_type=config.family.model_type, dtype="float32")
        if types:
            saved = saved.but(**{KEY: packed_config(types)})
        saved.save_pretrained(aside)
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
