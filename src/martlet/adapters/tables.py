"""The base's embeddings and head in an adapter's files, as PEFT writes them: their rows may be new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from martlet.adapters.layers import LoraLinear
from martlet.errors import MartletError, WeightsError
from martlet.formats.files import read_json
from martlet.hub import open_snapshot


def has_other_ids(model: Any) -> bool:
    """Whether a model has other ids than its checkpoint."""
    tables = _tables(model)
    base = getattr(model, "name_or_path", None)
    sizes = {len(each.weight) for each in tables.values()}
    if not base or not sizes:
        return False
    try:
        found = open_snapshot(base, local_files_only=True).file("config.json")
        values = read_json(found) if found is not None else {}
    except MartletError:
        return False  # a base that is gone from this machine says nothing of its ids
    size = values.get("vocab_size") or (values.get("text_config") or {}).get("vocab_size")
    current = getattr(model.config, "vocab_size", None) if hasattr(model, "config") else None
    return size is not None and current is not None and size != current


def base_tables(model: Any, names: Mapping[str, Any], adapter: str | None) -> dict[str, Tensor]:
    """The weights of embeddings and head by their keys in a file; those an adapter trains whole are its own already.
    With `adapter` those alone that it is on."""
    out: dict[str, Tensor] = {}
    for path, module in _tables(model).items():
        if adapter is not None and not (isinstance(module, LoraLinear) and module.knows(adapter)):
            continue
        if isinstance(module, LoraLinear):
            out[f"{_their_path(names, path)}.base_layer.weight"] = module.weight
        elif isinstance(module, nn.Linear | nn.Embedding):
            out[f"{_their_path(names, path)}.weight"] = module.weight
    shown: dict[int, str] = {}
    return {key: weight for key, weight in out.items() if shown.setdefault(id(weight), key) == key}  # a tied one once


def fill_tables(
    model: Any, names: Mapping[str, Any], subject: str, keys: Iterable[str], read: Callable[[str], Tensor], start: str
) -> set[str]:
    """Puts the embeddings and the head of an adapter's file into the base; returns their keys. WeightsError for a table
    of another size."""
    keys, found = set(keys), set()
    for path, module in _tables(model).items():
        while isinstance(getattr(module, "base_layer", None), nn.Module):
            module = module.base_layer
        base = _their_path(names, path)
        for key in (f"{start}{base}{inside}.weight" for inside in ("", ".base_layer", ".token_adapter.base_layer")):
            if key not in keys:
                continue
            value, weight = read(key), getattr(module, "weight", None)
            if weight is None or value.shape != weight.shape:
                raise WeightsError(
                    subject, f"{key} must be of shape {None if weight is None else list(weight.shape)}",
                    found=list(value.shape), remedy=f"Call resize_token_embeddings({len(value)}) of the base first.",
                )  # fmt: skip
            found.add(key)
            value = value.to(weight.device, weight.dtype)
            if not torch.equal(value, weight):
                made = nn.Parameter(value.clone(), requires_grad=weight.requires_grad)
                for each in model.modules():  # a head that is the table stays it
                    if vars(each).get("_parameters", {}).get("weight") is weight:
                        each.weight = made
    return found


def _tables(model: Any) -> dict[str, Any]:
    """Embeddings and head by their paths."""
    wanted = [
        getattr(model, each)() for each in ("get_input_embeddings", "get_output_embeddings") if hasattr(model, each)
    ]
    return {
        path: module
        for path, module in model.named_modules()
        if any(module is each for each in wanted) and hasattr(module, "weight")
    }


def _their_path(names: Mapping[str, Any], path: str) -> str:
    found = names.get(f"{path}.weight")
    return path if found is None else str(found.name).removesuffix(".weight")
