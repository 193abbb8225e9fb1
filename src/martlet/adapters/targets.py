"""Where adapters go: the modules of a model that a config names, and which of their weights learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from martlet.adapters.config import ALL_LINEAR, HEADS, LoraConfig, TaskType, is_taken, matches
from martlet.adapters.embeddings import LoraEmbedding, TiedHead, TrainedTokens
from martlet.adapters.files import is_own, keys_of, paths_of, their_names
from martlet.adapters.layers import LoraLinear, OwnCopy
from martlet.errors import ArgumentError, UnsupportedError

OUTPUTS = ("lm_head", "head.out")


def find_matrices(model: Any, config: LoraConfig) -> dict[str, list[str]]:
    """Paths of the matrices a config names -> their paths, ours and the checkpoint's.

    UnsupportedError for a layer of a module of one's own that is neither linear nor a table of embeddings."""
    names, found, known = their_names(model), {}, set()
    outputs = _outputs(model) if config.target_modules == ALL_LINEAR else ()
    for path, module in model.named_modules():
        if _is_inside_layer(path) or path in outputs:
            continue
        is_table = isinstance(module, nn.Embedding | LoraEmbedding) and config.target_modules != ALL_LINEAR
        if not is_table and (not _is_matrix(model, module) or isinstance(module, LoraEmbedding)):
            if path and config.target_modules not in (None, ALL_LINEAR) and config.targets([path]):
                _refuse_other(model, path, module)
            continue
        paths = paths_of(path, names)
        known |= {each.rpartition(".")[2] for each in paths}
        if config.targets(paths):
            _refuse_passed_by(model, path)
            if path == "lm_head" and is_own(model) and model.arch.tied:
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


def _outputs(model: Any) -> Sequence[str]:
    """Paths of the output's matrix, which "all-linear" leaves out."""
    if is_own(model):
        return OUTPUTS
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [path for path, module in model.named_modules() if head is not None and module is head]


def _is_inside_layer(path: str) -> bool:
    """Whether a module came with an adapter, or is what it was put around."""
    parts = path.split(".")
    return any(
        part in ("base_layer", "original_module", "modules_to_save") or part.startswith("lora_") for part in parts
    )


def _is_matrix(model: Any, module: nn.Module) -> bool:
    if isinstance(module, OwnCopy):
        return False
    return hasattr(module, "in_features") if is_own(model) else isinstance(module, nn.Linear | LoraLinear)


def _refuse_other(model: Any, path: str, module: nn.Module) -> None:
    """Of a module of one's own a name that meets another layer is an error, as PEFT has it."""
    if not is_own(model) and not isinstance(module, OwnCopy | TrainedTokens | TiedHead):
        raise UnsupportedError(
            "target_modules", "must name linear layers and embeddings", found=f"{path} is a {type(module).__name__}"
        )


def _refuse_passed_by(model: Any, path: str) -> None:
    """UnsupportedError for a layer whose owner reads its weight and never calls it: an adapter would not act."""
    owner = model.get_submodule(path.rpartition(".")[0])
    if isinstance(owner, nn.MultiheadAttention | nn.TransformerEncoderLayer):
        raise UnsupportedError(
            "target_modules", f"{type(owner).__name__} of torch reads its layers' weights without calling them",
            found=path, remedy="Leave it to exclude_modules.",
        )  # fmt: skip


def find_saved_whole(model: Any, config: LoraConfig) -> list[str]:
    """Paths of the modules without children that `modules_to_save` names, the head's among them by the task."""
    names = their_names(model)
    by_task = HEADS.get(TaskType(config.task_type), ()) if config.task_type else ()
    saved = [config.modules_to_save] if isinstance(config.modules_to_save, str) else config.modules_to_save or ()
    wanted = [*saved, *by_task]
    found: list[str] = []
    is_met = dict.fromkeys(wanted, False)
    for path, module in model.named_modules():
        if not path or _is_inside_layer(path):
            continue
        is_whole = isinstance(module, OwnCopy | LoraLinear | TrainedTokens | TiedHead)
        if is_own(model):
            if not is_whole and (list(module.children()) or not list(module.parameters(recurse=False))):
                continue
            paths = paths_of(path, names)
            named = [each for each in wanted if any(f".{each}." in f".{one}." for one in paths)]
        else:  # the outermost module of a name, as a whole
            named = [each for each in wanted if matches([each], path)]
            if any(path.startswith(f"{each}.") for each in found):
                continue
            if named and isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
                raise UnsupportedError("modules_to_save", "must name modules that are called", found=path)
        is_met |= dict.fromkeys(named, True)
        if named:
            found.append(path)
    gone = [each for each, met in is_met.items() if not met and each not in (*by_task, *HEADS[TaskType.SEQ_CLS])]
    if gone:
        raise ArgumentError("modules_to_save", "must name modules of the model", found=", ".join(gone))
    return found


def find_token_tables(model: Any, config: LoraConfig) -> dict[str, Sequence[int]]:
    """Paths of the tables that `trainable_token_indices` names -> its ids."""
    asked = config.trainable_token_indices
    if asked is None:
        return {}
    names, out = their_names(model), {}
    if not isinstance(asked, Mapping):
        asked = {_input_table(model): asked}
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


def _input_table(model: Any) -> str:
    """Where ids without a table's name belong."""
    if is_own(model) or not hasattr(model, "get_input_embeddings"):
        return "embed_tokens"
    table = model.get_input_embeddings()
    return next((path for path, module in model.named_modules() if module is table), "embed_tokens")


def set_trainable(model: Any, configs: Mapping[str, LoraConfig], active: Sequence[str]) -> None:
    learning = {name for name in active if not configs[name].inference_mode}
    for module in model.modules():
        if isinstance(module, LoraLinear):
            for name, weight in module.weights():
                weight.requires_grad_(name in learning)
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
