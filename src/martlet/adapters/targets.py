"""Where adapters go: the modules of a model that a config names, and which of their weights learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from martlet.adapters.config import ALL_LINEAR, HEADS, LoraConfig, TaskType, is_taken
from martlet.adapters.embeddings import LoraEmbedding, TiedHead, TrainedTokens
from martlet.adapters.files import keys_of, paths_of, their_names
from martlet.adapters.layers import LoraLinear, OwnCopy
from martlet.errors import ArgumentError, UnsupportedError

OUTPUTS = ("lm_head", "head.out")


def find_matrices(model: Any, config: LoraConfig) -> dict[str, list[str]]:
    """Paths of the matrices a config names -> their paths, ours and the checkpoint's."""
    names, found, known = their_names(model), {}, set()
    for path, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding | LoraEmbedding) and config.target_modules != ALL_LINEAR
        if not is_table and (not hasattr(module, "in_features") or isinstance(module, LoraEmbedding)):
            continue
        if path.rpartition(".")[2] in ("base_layer", "original_module"):
            continue
        if ".modules_to_save." in path or (config.target_modules == ALL_LINEAR and path in OUTPUTS):
            continue
        paths = paths_of(path, names)
        known |= {each.rpartition(".")[2] for each in paths}
        if config.targets(paths):
            if path == "lm_head" and model.arch.tied:
                raise UnsupportedError(
                    "target_modules",
                    "a head that is the embedding table cannot be adapted by itself",
                    found=repr(config.target_modules),
                    remedy="Leave it to exclude_modules, or name it in modules_to_save.",
                )
            if is_taken(config.init_lora_weights) and len(names[f"{path}.weight"].parts) > 1:
                raise UnsupportedError(
                    "init_lora_weights",
                    "takes a part out of a matrix, and the checkpoint has this one as a part of another",
                    found=f"{config.init_lora_weights!r} for {names[f'{path}.weight'].name}",
                )
            found[path] = paths
    if not found:
        raise ArgumentError("target_modules", f"must name some of {keys_of(known)}", found=repr(config.target_modules))
    return found


def find_saved_whole(model: Any, config: LoraConfig) -> list[str]:
    """Paths of the modules without children that `modules_to_save` names, the head's among them by the task."""
    names = their_names(model)
    by_task = HEADS.get(TaskType(config.task_type), ()) if config.task_type else ()
    wanted = [*(config.modules_to_save or ()), *by_task]
    found, is_met = [], dict.fromkeys(wanted, False)
    for path, module in model.named_modules():
        if any(part in f".{path}." for part in (".modules_to_save.", ".original_module.", ".base_layer.")):
            continue
        is_whole = isinstance(module, OwnCopy | LoraLinear | TrainedTokens | TiedHead)
        if not is_whole and (list(module.children()) or not list(module.parameters(recurse=False))):
            continue
        paths = paths_of(path, names)
        named = [each for each in wanted if any(f".{each}." in f".{one}." for one in paths)]
        is_met |= dict.fromkeys(named, True)
        if named:
            found.append(path)
    gone = [each for each, met in is_met.items() if not met and each not in HEADS[TaskType.SEQ_CLS]]
    if gone:
        raise ArgumentError("modules_to_save", "must name modules of the model", found=", ".join(gone))
    return found


def find_token_tables(model: Any, config: LoraConfig) -> dict[str, Sequence[int]]:
    """Paths of the tables that `trainable_token_indices` names -> its ids."""
    asked = config.trainable_token_indices
    if asked is None:
        return {}
    if not isinstance(asked, Mapping):
        asked = {"embed_tokens": asked}
    names, out = their_names(model), {}
    tables = {
        path: paths_of(path, names)
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding | TrainedTokens) and not path.endswith(("base_layer", "original_module"))
    }
    for name, tokens in asked.items():
        found = [path for path, paths in tables.items() if any(each.endswith(name) for each in paths)]
        if len(found) != 1:
            known = keys_of({each.rpartition(".")[2] for paths in tables.values() for each in paths})
            raise ArgumentError("trainable_token_indices", f"must name one table of {known}", found=repr(name))
        out[found[0]] = tokens
    return out


def set_trainable(model: Any, configs: Mapping[str, LoraConfig], active: Sequence[str]) -> None:
    learning = {name for name in active if not configs[name].inference_mode}
    for module in model.modules():
        if isinstance(module, LoraLinear):
            for table in (module.lora_A, module.lora_B, module.lora_magnitude_vector):
                for name, parameter in table.items():
                    parameter.requires_grad_(name in learning)
        elif isinstance(module, TrainedTokens):
            for name, parameter in module.trainable_tokens_delta.items():
                parameter.requires_grad_(name in learning)
        elif isinstance(module, OwnCopy):
            for name, copy in module.modules_to_save.items():
                copy.requires_grad_(name in learning)
    for name, config in configs.items():
        if config.bias != "none":
            for path, module in model.named_modules():
                bias = getattr(module, "bias", None)
                if (
                    isinstance(bias, Tensor)
                    and ".modules_to_save" not in path
                    and ".original_module" not in path
                    and not isinstance(module, OwnCopy)
                    and (config.bias == "all" or isinstance(module, LoraLinear))
                ):
                    bias.requires_grad_(name in learning)
