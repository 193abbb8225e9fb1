"""A model's weights in a checkpoint folder: written as users load them, read back bit for bit into a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from martlet.arch import tensors
from martlet.checkpoint import open_checkpoint
from martlet.errors import CheckpointError, MartletError
from martlet.formats.safetensors import SafetensorsFile
from martlet.modeling import Saved
from martlet.nn.load import own_name, read_tensor
from martlet.training.statefile import read_tensor as read_copy
from martlet.training.statefile import save_tensors

PLAIN = "model.safetensors"  # of a module that has no save_pretrained, where Hugging Face's Trainer puts it
OWN = "weights.safetensors"  # beside what save_pretrained wrote: a model's weights by its own names
ADAPTER = "trainable.safetensors"  # what learns of a model with adapters, exactly


def fingerprint(model: nn.Module) -> str:
    """A hash of the names and shapes of all weights: equal for models that can take each other's."""
    shapes = {name: list(each.shape) for name, each in sorted(model.state_dict().items())}
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def save_weights(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes `model` into `folder`; `state` in place of its own weights (gathered from shards)."""
    if _is_adapted(model):
        with _gathered(model, state):
            model.save_pretrained(folder)
            save_tensors(folder / ADAPTER, dict(_trainable(model)))
    elif _is_whole(model):
        model.save_pretrained(folder, state_dict=state)
    elif hasattr(model, "save_pretrained") and state is None and not isinstance(model, Saved):
        model.save_pretrained(folder)
        save_tensors(folder / OWN, _distinct(model))
    else:
        name = OWN if hasattr(model, "save_pretrained") else PLAIN
        save_tensors(folder / name, state if state is not None else _distinct(model))


@contextlib.contextmanager
def _gathered(model: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Inside, the weights in `state` stand in for the model's: one rank alone cannot put shards together."""
    held = []
    for name, weight in list(model.named_parameters(remove_duplicate=False)) if state else ():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        held.append((owner, leaf, weight))
        owner._parameters[leaf] = nn.Parameter(state[name], requires_grad=weight.requires_grad)  # type: ignore[index]
    try:
        yield
    finally:
        for owner, leaf, weight in held:
            owner._parameters[leaf] = weight


def load_weights(model: Any, folder: Path) -> None:
    """Fills `model` from what `save_weights` wrote. CheckpointError if they are another model's."""
    with torch.no_grad():
        if _is_adapted(model):
            _copy(dict(_trainable(model)), folder / ADAPTER)
        elif (folder / OWN).is_file():
            _copy(_distinct(model), folder / OWN)
        elif (folder / PLAIN).is_file() and not hasattr(model, "save_pretrained"):
            _copy(_distinct(model), folder / PLAIN)
        elif _is_whole(model):
            _load_saved(model, folder)
        else:
            raise CheckpointError(str(folder), "has no weights of this kind of model", found=type(model).__name__)


def _load_saved(model: Any, folder: Path) -> None:
    try:
        opened = open_checkpoint(folder)
        source = opened.open_weights()
        pieces = opened.locate(source, model.parts)
    except MartletError as problem:
        raise CheckpointError(str(folder), "its weights cannot be read", found=str(problem)) from problem
    own = dict(model.named_parameters(remove_duplicate=False))
    expected = tensors(model.arch, model.parts)
    found = tensors(opened.arch, model.parts)
    if found != expected:
        raise CheckpointError(
            str(folder), "must be of the same architecture as the model", found=_difference(found, expected)
        )
    for name in expected:
        key = own_name(model, name)
        if key in own and name in pieces:
            value = pieces[name].take(read_tensor(source, pieces[name].source, own[key].dtype))
            own[key].copy_(value)


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    for name in expected:
        if found.get(name) != expected[name]:
            return f"{name} of shape {found.get(name, 'none')} for {expected[name]}"
    return f"surplus {sorted(set(found) - set(expected))[:3]}"


def _copy(own: Mapping[str, Tensor], path: Path) -> None:
    source = SafetensorsFile(path)
    try:
        there = {name: tuple(source.info(name).shape) for name in source.names()}
        wanted = {name: tuple(each.shape) for name, each in own.items()}
        if there != wanted:
            raise CheckpointError(
                str(path), "must be of the same architecture as the model", found=_difference(there, wanted)
            )
        for name, tensor in own.items():
            tensor.copy_(read_copy(source, name))
    finally:
        source.close()


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, each under its first name."""
    seen: dict[int, str] = {}
    out = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen[tensor.data_ptr()] = name
        out[name] = tensor
    return out


def _trainable(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, each.data) for name, each in model.named_parameters() if each.requires_grad]


def _is_whole(model: Any) -> bool:
    """A model of ours with the modules its config says; one that was rebuilt by hand is saved by its own names."""
    if not isinstance(model, Saved) or not isinstance(model, nn.Module):
        return False
    expected = {own_name(model, name) for name in tensors(model.arch, model.parts)}
    return expected <= set(model.state_dict()) and set(_distinct(model)) <= expected


def _is_adapted(model: Any) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")
