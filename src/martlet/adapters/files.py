"""PEFT's files both ways: where each of our adapted modules lies among a checkpoint's, through the family's rules.

A checkpoint's fused matrix has one adapter. Read, each of our parts takes A and its rows of B; written, parts that
share A are joined, others become one adapter of the summed rank.
"""

# r rank

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from martlet.adapters.config import HEADS, LoraConfig, TaskType
from martlet.adapters.embeddings import LoraEmbedding, TrainedTokens
from martlet.adapters.layers import LoraLinear, OwnCopy
from martlet.adapters.tables import base_tables, fill_tables, has_other_ids
from martlet.arch import tensors
from martlet.errors import ArgumentError, HubError, UnsupportedError, WeightsError
from martlet.formats import open_weights
from martlet.formats.files import write_aside
from martlet.formats.safetensors import save_safetensors
from martlet.hub import open_snapshot
from martlet.nn.decoder import Decoder
from martlet.nn.devices import STORED
from martlet.nn.load import own_name, read_tensor
from martlet.weights import assemble

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
START = "base_model.model."
WORDS = {dtype: word for word, dtype in STORED.items()}


@dataclass(frozen=True, slots=True)
class Theirs:
    """One tensor of the checkpoint: its name, ours that it is made of, the rows of each, the order they lie in."""

    name: str
    parts: tuple[str, ...]  # names as the module has them
    order: Any

    def rows_of(self, part: str, sizes: Mapping[str, int]) -> Tensor:
        """Which rows of the checkpoint's tensor are this part's."""
        start = sum(sizes[each] for each in self.parts[: self.parts.index(part)])
        joined = np.arange(start, start + sizes[part])
        return torch.from_numpy(joined if self.order is None else np.argsort(self.order)[joined])


def their_names(model: Any) -> dict[str, Theirs]:
    """Our parameter names, as the module has them without adapters -> the checkpoint's tensor they lie in.

    A module that is not of martlet's is its own checkpoint."""
    if not is_own(model):
        plain = (_without_adapters(name) for name, _ in model.named_parameters(remove_duplicate=False))
        return {name: Theirs(name, (name,), None) for name in plain if name is not None}
    family, found = model.config.family, {}
    names = list(tensors(model.arch, model.parts))
    for theirs, assembly in assemble(names, family.saved_rules(model.parts.head), model.arch).items():
        if isinstance(model, Decoder):
            theirs = theirs.removeprefix(family.prefix)
        parts = tuple(own_name(model, name) for name in assembly.parts)
        for part in parts:
            found[part] = Theirs(theirs, parts, assembly.order)
    return found


def is_own(model: Any) -> bool:
    """Whether a model is martlet's: built from an Arch, its tensors named by a family."""
    return hasattr(model, "arch") and hasattr(model, "parts")


def _without_adapters(name: str) -> str | None:
    """A parameter's name before adapters came, None for an adapter's own."""
    parts = name.split(".")
    if any(part.startswith("lora_") for part in parts) or {"modules_to_save", "trainable_tokens_delta"} & set(parts):
        return None
    return ".".join(part for part in parts if part not in ("base_layer", "original_module"))


def paths_of(path: str, names: Mapping[str, Theirs]) -> list[str]:
    """A module's paths: ours, and the checkpoint's."""
    theirs = names.get(f"{path}.weight")
    out = [path]
    if theirs is not None and theirs.name.removesuffix(".weight") != path:
        out.append(theirs.name.removesuffix(".weight"))
    return out


def save_adapter(folder: Path, model: Any, name: str, config: LoraConfig, tables: bool | str = "auto") -> None:
    """Writes one adapter as PEFT does: adapter_model.safetensors and adapter_config.json."""
    tensors_out, changes = adapter_state(model, name, config, tables)
    save_safetensors(
        folder / WEIGHTS,
        {key: (WORDS[value.dtype], tuple(value.shape), _bytes(value)) for key, value in sorted(tensors_out.items())},
        {"format": "pt"},
    )
    config.save_pretrained(folder, **changes)


def write_card(folder: Path, base: str | None) -> None:
    """README.md with the Hub's metadata of an adapter of `base`, where there is none."""
    if (folder / "README.md").exists():
        return
    head = [f"base_model: {base}"] if base else []
    lines = ["---", *head, "library_name: peft", "tags:", "- lora", "- martlet", "---", ""]
    lines.append(f"# A LoRA adapter of `{base}`" if base else "# A LoRA adapter")
    with write_aside(folder / "README.md") as file:
        file.write(("\n".join(lines) + "\n").encode())


def adapter_state(
    model: Any, name: str, config: LoraConfig, tables: bool | str = "auto"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One adapter's tensors by PEFT's keys, and what its config says of them in the checkpoint's names.

    `tables` True: with the base's embeddings and head; "auto": if an adapter is on them, or ids came after loading.
    """
    names = their_names(model)
    linears = {path: each for path, each in model.named_modules() if isinstance(each, LoraLinear) and each.knows(name)}
    stored: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    done: set[str] = set()
    for path in linears:
        theirs = names[f"{path}.weight"]
        if theirs.name in done:
            continue
        done.add(theirs.name)
        base = theirs.name.removesuffix(".weight")
        module = linears[path]
        if isinstance(module, LoraEmbedding):
            a, b, scaling = module.a(name), module.b(name), module.scaling[name]
            stored[f"{base}.lora_embedding_A"], stored[f"{base}.lora_embedding_B"] = a, b
        else:
            a, b, scaling = _joined(theirs, model, name)
            stored[f"{base}.lora_A.weight"], stored[f"{base}.lora_B.weight"] = a, b
        magnitudes = _joined_magnitudes(theirs, model, name)
        if magnitudes is not None:
            stored[f"{base}.lora_magnitude_vector"] = magnitudes
        rank = a.shape[0]
        alpha = scaling * (rank**0.5 if config.use_rslora else rank)
        if rank != config.r:
            ranks[base] = rank
        if abs(alpha - config.lora_alpha) > 1e-9 * abs(alpha):
            alphas[base] = round(alpha, 12)
    targets = sorted(each.removesuffix(".weight") for each in done)
    kept: dict[str, str] = {}  # our path -> theirs
    tokens: dict[str, list[int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, TrainedTokens) and name in module.indices:
            table = names[f"{path}.weight"].name.removesuffix(".weight")
            stored[f"{table}.token_adapter.trainable_tokens_delta"] = module.trainable_tokens_delta[name]
            tokens[table.rpartition(".")[2]] = module.indices[name].tolist()
        if isinstance(module, OwnCopy) and name in module.modules_to_save:
            kept[path] = paths_of(path, names)[-1]
            for leaf, value in module.modules_to_save[name].state_dict().items():
                stored[_key_of(names, f"{path}.{leaf}")] = value
    if config.bias != "none":
        stored |= _biases(model, names, config.bias)
    if tables is True or (tables == "auto" and not tokens):
        stored |= base_tables(model, names, None if tables is True or has_other_ids(model) else name)
    tensors_out = {f"{START}{key}": value.detach().cpu().contiguous() for key, value in stored.items()}
    changes = {
        "target_modules": _shortest(targets, model, names),
        "modules_to_save": _saved_names(config, kept) or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "trainable_token_indices": tokens or None,
        "fan_in_fan_out": any(_is_transposed(model, each) for each in targets),
        "base_model_name_or_path": config.base_model_name_or_path or getattr(model, "name_or_path", None) or None,
    }
    return tensors_out, changes


def load_adapter(folder: Path, model: Any, name: str, config: LoraConfig) -> None:
    """Fills the adapter `name`, put into `model` before, from PEFT's files; WeightsError if they do not fit exactly."""
    path = next((folder / file for file in (WEIGHTS, PICKLE) if (folder / file).is_file()), None)
    if path is None:
        raise HubError(str(folder), f"must hold {WEIGHTS}")
    source = open_weights(path)
    fill_adapter(model, name, config, str(path), source.names(), lambda key: read_tensor(source, key))


def fill_adapter(
    model: Any, name: str, config: LoraConfig, subject: str, keys: Iterable[str], read: Callable[[str], Tensor]
) -> None:
    """Fills the adapter `name` from tensors by PEFT's keys; WeightsError (of `subject`) if they do not fit."""
    names, held = their_names(model), set(keys)
    unread = set(held)

    def take(key: str, shape: Sequence[int]) -> Tensor:
        key = f"{START}{key}"
        if key not in held:
            raise WeightsError(subject, f"{key} is missing", remedy="Is the adapter of this base model?")
        unread.discard(key)
        value = read(key)
        if tuple(value.shape) != tuple(shape):
            raise WeightsError(
                subject, f"{key} must be of shape {list(shape)}", found=list(value.shape),
                remedy="Is the adapter of this base model?",
            )  # fmt: skip
        return value

    with torch.no_grad():
        for own, module in list(model.named_modules()):
            if isinstance(module, LoraEmbedding) and module.knows(name):
                base = names[f"{own}.weight"].name.removesuffix(".weight")
                for leaf, table in (("A", module.a(name)), ("B", module.b(name))):
                    table.copy_(take(f"{base}.lora_embedding_{leaf}", table.shape))
                if (lengths := module.magnitude(name)) is not None:
                    lengths.copy_(take(f"{base}.lora_magnitude_vector", lengths.shape))
            elif isinstance(module, TrainedTokens) and name in module.indices:
                base, rows = names[f"{own}.weight"].name.removesuffix(".weight"), module.trainable_tokens_delta[name]
                rows.copy_(take(f"{base}.token_adapter.trainable_tokens_delta", rows.shape))
            elif isinstance(module, LoraLinear) and module.knows(name):
                theirs = names[f"{own}.weight"]
                sizes = {part: model.get_submodule(part.removesuffix(".weight")).out_features for part in theirs.parts}
                order, total = theirs.rows_of(f"{own}.weight", sizes), sum(sizes.values())
                base, a = theirs.name.removesuffix(".weight"), module.a(name)
                a.copy_(take(f"{base}.lora_A.weight", a.shape))
                module.b(name).copy_(take(f"{base}.lora_B.weight", (total, a.shape[0]))[order])
                if (lengths := module.magnitude(name)) is not None:
                    lengths.copy_(take(f"{base}.lora_magnitude_vector", (total,))[order])
            elif isinstance(module, OwnCopy) and name in module.modules_to_save:
                for leaf, value in module.modules_to_save[name].state_dict().items():
                    value.copy_(take(_key_of(names, f"{own}.{leaf}"), value.shape))
        if config.bias != "none":
            for key, target in _biases(model, names, config.bias).items():
                target.copy_(take(key, target.shape))
        # with biases PEFT writes a module saved whole a second and a third time
        unread = {key for key in unread if ".original_module." not in key and ".modules_to_save." not in key}
        unread -= fill_tables(model, names, subject, unread, read, START)
    if unread:
        raise WeightsError(
            subject, f"{len(unread)} tensors that this adapter does not use: {', '.join(sorted(unread)[:4])}",
            remedy="Is the adapter of this base model?",
        )  # fmt: skip


def _key_of(names: Mapping[str, Theirs], own: str) -> str:
    """Where a tensor lies in a file: a buffer, of which no family speaks, under its own name."""
    return names[own].name if own in names else own


def _joined(theirs: Theirs, model: Any, name: str) -> tuple[Tensor, Tensor, float]:
    """A, B and scaling of a checkpoint's matrix out of those of its parts."""
    modules = [model.get_submodule(part.removesuffix(".weight")) for part in theirs.parts]
    has = [isinstance(each, LoraLinear) and each.knows(name) for each in modules]
    adapted = [each for each, is_adapted in zip(modules, has, strict=True) if is_adapted]
    first, scaling = adapted[0], adapted[0].scaling[name]
    parts = [each.a(name) for each in adapted]
    shares = all(part.shape == parts[0].shape and torch.equal(part, parts[0]) for part in parts)
    width = parts[0].shape[0] if shares else sum(part.shape[0] for part in parts)
    rows, begin = [], 0
    for module, is_adapted in zip(modules, has, strict=True):
        block = torch.zeros(module.out_features, width, dtype=first.b(name).dtype)
        if is_adapted:
            b = module.b(name).detach().cpu()
            if module.scaling[name] != scaling:
                b = b * (module.scaling[name] / scaling)
            block[:, slice(None) if shares else slice(begin, begin + b.shape[1])] = b
            begin += b.shape[1]
        rows.append(block)
    joined = torch.cat(rows)
    a = parts[0] if shares else torch.cat(parts)
    return a, joined if theirs.order is None else joined[torch.from_numpy(theirs.order)], scaling


def _joined_magnitudes(theirs: Theirs, model: Any, name: str) -> Tensor | None:
    modules = [model.get_submodule(part.removesuffix(".weight")) for part in theirs.parts]
    learnt = [each.magnitude(name) if isinstance(each, LoraLinear) else None for each in modules]
    if all(each is None for each in learnt):
        return None
    lengths = [
        module.weight.detach().float().norm(dim=1) if each is None else each.detach()
        for each, module in zip(learnt, modules, strict=True)
    ]
    joined = torch.cat([each.cpu() for each in lengths])
    return joined if theirs.order is None else joined[torch.from_numpy(theirs.order)]


def _biases(model: Any, names: Mapping[str, Theirs], which: str) -> dict[str, Tensor]:
    """The biases an adapter trains, by PEFT's keys. UnsupportedError for one that a checkpoint fuses."""
    out: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        adapted = isinstance(module, LoraLinear)
        if ".base_layer" in path or ".modules_to_save" in path or ".original_module" in path:
            continue
        bias = getattr(module, "bias", None)
        if bias is None or f"{path}.bias" not in names or (which == "lora_only" and not adapted):
            continue
        if isinstance(module, OwnCopy):
            continue
        theirs = names[f"{path}.bias"]
        base = theirs.name.removesuffix(".bias")
        out[f"{base}.base_layer.bias" if adapted else theirs.name] = bias
        if len(theirs.parts) > 1 or theirs.order is not None:
            raise UnsupportedError(
                "bias", f"{theirs.name} is one tensor of several modules, so PEFT's file cannot hold one of them",
                remedy="Pass bias='none'.",
            )  # fmt: skip
    return out


def _saved_names(config: LoraConfig, kept: Mapping[str, str]) -> list[str]:
    """modules_to_save in the checkpoint's names; PEFT adds a task's own head by itself, as a whole."""
    by_task = HEADS.get(TaskType(config.task_type), ()) if config.task_type else ()
    out = list(by_task)
    for name in config.modules_to_save or ():
        if any(f".{name}." in f".{theirs}." for theirs in kept.values()):
            out.append(name)
        else:
            out += [theirs for own, theirs in kept.items() if f".{name}." in f".{own}."]
    return list(dict.fromkeys(each for each in out if each in by_task or not _is_inside(each, by_task)))


def _is_inside(path: str, names: Iterable[str]) -> bool:
    return any(f".{name}." in f".{path}." for name in names)


def _shortest(targets: Sequence[str], model: Any, names: Mapping[str, Theirs]) -> list[str]:
    """Last parts of the targets' paths where they name no other matrix, as people write them; else whole paths."""
    lasts = sorted({each.rpartition(".")[2] for each in targets})
    linear = {each.name.removesuffix(".weight") for part, each in names.items() if _is_matrix(model, part)}
    named = {each for each in linear if each.rpartition(".")[2] in lasts}
    return lasts if named == set(targets) else list(targets)


def _is_matrix(model: Any, part: str) -> bool:
    path, _, leaf = part.rpartition(".")
    module = model.get_submodule(path)
    return leaf == "weight" and (hasattr(module, "in_features") or isinstance(module, torch.nn.Embedding))


def _is_transposed(model: Any, target: str) -> bool:
    return is_own(model) and any(
        rule.transposed and rule.matches(f"{target}.weight")
        for rule in model.config.family.saved_rules(model.parts.head)
    )


def _bytes(value: Tensor) -> Any:
    return lambda: value.view(-1).view(torch.uint8).numpy()


def keys_of(paths: Iterable[str]) -> str:
    """A few paths for an error."""
    listed = sorted(paths)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
IDLE_WORDS = ("low_cpu_mem_usage", "torch_device", "ephemeral_gpu_offload")  # of no effect


def of_hub(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of the Hub among those of a load; ArgumentError for any other."""
    for name in given:
        if name not in (*HUB, *IDLE_WORDS):
            raise ArgumentError("from_pretrained", f"has no {name!r}", remedy=f"There are {', '.join(HUB)}.")
    return {name: value for name, value in given.items() if name in HUB}


def adapter_folder(name_or_path: str | os.PathLike[str], hub: Mapping[str, Any]) -> Path:
    """The local folder of an adapter, found as models are."""
    snapshot = open_snapshot(name_or_path, **hub)
    folder = snapshot.require("adapter_config.json").parent
    if snapshot.file(WEIGHTS) is None:
        snapshot.require(PICKLE)
    return folder
