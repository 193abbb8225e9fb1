"""`PeftModel`: a base model with adapters, in PEFT's names: made, switched, merged, saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from martlet.adapters.combine import Mixing, add_weighted
from martlet.adapters.config import LoraConfig
from martlet.adapters.embeddings import LoraEmbedding, TiedHead, TrainedTokens
from martlet.adapters.files import (
    adapter_folder,
    load_adapter,
    of_hub,
    save_adapter,
    write_card,
)
from martlet.adapters.layers import BASE, LoraLinear, OwnCopy, Routing, Switch
from martlet.adapters.status import TunerLayerStatus, TunerModelStatus, get_layer_status, get_model_status
from martlet.adapters.targets import find_matrices, find_saved_whole, find_token_tables, set_trainable
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.packed import PackedLinear
from martlet.nn.ragged import find_padding


class PeftModel(nn.Module):
    """A model of martlet's with LoRA adapters. Calls and attributes it does not have itself are the base model's.

    The base is frozen; the active adapter learns. `adapter_names`, one for each row of a call or of `generate`, sends
    each row through its own: "__base__" is no adapter.
    """

    def __init__(
        self, model: Any, peft_config: LoraConfig, adapter_name: str = "default", autocast_adapter_dtype: bool = True
    ) -> None:
        super().__init__()
        if not hasattr(model, "arch") or not hasattr(model, "parts") or isinstance(model, PeftModel):
            raise ArgumentError("get_peft_model", "needs a torch model of martlet's", found=type(model).__name__)
        self.base_model = model
        self.peft_config: dict[str, LoraConfig] = {}
        self.switch = Switch()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.add_adapter(adapter_name, peft_config, autocast_adapter_dtype=autocast_adapter_dtype)
        self.set_adapter(adapter_name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    # calls

    def forward(self, *inputs: Any, adapter_names: Sequence[str] | None = None, **keywords: Any) -> Any:
        """The base model's call; `adapter_names` gives each row an adapter."""
        if adapter_names is None:
            return self.base_model(*inputs, **keywords)
        with self._routed(adapter_names, inputs, keywords):
            return self.base_model(*inputs, **keywords)

    def generate(self, inputs: Any = None, *, adapter_names: Sequence[str] | None = None, **keywords: Any) -> Any:
        """The base model's `generate`; with `adapter_names` the rows of each adapter by themselves, put together."""
        if adapter_names is None:
            return self.base_model.generate(inputs, **keywords)
        ids = inputs if inputs is not None else keywords.pop("input_ids", None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or keywords.get("return_dict_in_generate"):
            raise UnsupportedError("generate", "adapter_names needs input_ids as a tensor, and a tensor as its result")
        self._check_names(adapter_names, len(ids))
        rows: dict[int, Tensor] = {}
        for name in dict.fromkeys(adapter_names):
            places = [row for row, each in enumerate(adapter_names) if each == name]
            own = {
                key: value[places] if isinstance(value, Tensor) and len(value) == len(ids) else value
                for key, value in keywords.items()
            }
            with self._acting(name):
                made = self.base_model.generate(ids[places], **own)
            count = len(made) // len(places)
            for place, row in enumerate(places):
                rows[row] = made[place * count : (place + 1) * count]
        width = max(each.shape[1] for each in rows.values())
        pads = (keywords.get("pad_token_id"), self.base_model.generation_config.pad_token_id)
        pad = next((each for each in (*pads, self.base_model.config.get("pad_token_id")) if each is not None), 0)
        return torch.cat(
            [nn.functional.pad(rows[row], (0, width - rows[row].shape[1]), value=pad) for row in sorted(rows)]
        )

    def get_base_model(self) -> Any:
        """The model inside, with its adapted layers."""
        return self.base_model

    # adapters

    @property
    def active_adapter(self) -> str:
        return self.switch.active[0] if self.switch.active else BASE

    @property
    def active_adapters(self) -> list[str]:
        return list(self.switch.active)

    @property
    def active_peft_config(self) -> LoraConfig:
        return self.peft_config[self.active_adapter]

    def add_adapter(
        self,
        adapter_name: str,
        peft_config: LoraConfig,
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        """Puts a new adapter beside those there are; it acts when `set_adapter` says so. `autocast_adapter_dtype`
        False: in the base's dtype, else float32 on a half-precision one. `low_cpu_mem_usage` changes nothing."""
        if adapter_name in self.peft_config or adapter_name == BASE:
            raise ArgumentError("adapter_name", "must be new", found=repr(adapter_name))
        if not adapter_name or "." in adapter_name or hasattr(nn.ModuleDict, adapter_name):
            raise ArgumentError(
                "adapter_name", "must be a word without dots that torch can keep", found=repr(adapter_name)
            )
        if not isinstance(peft_config, LoraConfig):
            raise ArgumentError("peft_config", "must be a LoraConfig", found=type(peft_config).__name__)
        self._not_merged("add_adapter")
        config = replace(peft_config)
        if config.bias != "none" and any(each.bias != "none" for each in self.peft_config.values()):
            raise UnsupportedError("bias", "only one adapter of a model may train the base's biases")
        whole = find_saved_whole(self.base_model, config)
        found = {path: paths for path, paths in find_matrices(self.base_model, config).items() if path not in whole}
        for path, paths in found.items():
            layer = self._adapted(path)
            layer.add(
                adapter_name,
                config.rank(paths),
                config.scaling(paths),
                config.lora_dropout,
                config.init_lora_weights,
                path,
            )
            if config.use_dora:
                layer.add_magnitude(adapter_name)
            if not autocast_adapter_dtype:
                layer.narrow(adapter_name)
        for path in whole:
            self._own_copy(path).add(adapter_name)
        for path, tokens in find_token_tables(self.base_model, config).items():
            self._token_table(path).add(adapter_name, tokens)
        self.peft_config[adapter_name] = config
        set_trainable(self.base_model, self.peft_config, self.switch.active)

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
        svd_clamp: float | None = None,
        svd_full_matrices: bool = True,
        svd_driver: str | None = None,
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """A new adapter of others' changes by weights, in any way of PEFT's: `add_weighted`. `svd_clamp` is a quantile;
        `svd_full_matrices` changes nothing."""
        mixing = Mixing(combination_type, svd_rank, svd_clamp, svd_driver, density, majority_sign_method)
        add_weighted(self, adapters, weights, adapter_name, mixing)

    def set_adapter(self, adapter_name: str | Sequence[str], inference_mode: bool = False) -> None:
        """Makes an adapter, or several added up, the active one; only it learns, in `inference_mode` none."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._check_names(names, len(names))
        self._not_merged("set_adapter")
        self.switch.active = names
        set_trainable(self.base_model, self.peft_config, self.switch.active)
        if inference_mode:
            self.set_requires_grad(names, False)

    def delete_adapter(self, adapter_name: str) -> None:
        """Takes an adapter out; the first of the others becomes active if it was."""
        self._check_names([adapter_name], 1)
        self._not_merged("delete_adapter")
        for module in self.base_model.modules():
            if isinstance(module, LoraLinear | OwnCopy | TrainedTokens):
                module.remove(adapter_name)
        del self.peft_config[adapter_name]
        self.switch.active = [name for name in self.switch.active if name != adapter_name] or list(self.peft_config)[:1]
        set_trainable(self.base_model, self.peft_config, self.switch.active)

    def load_adapter(
        self, model_id: str | os.PathLike[str], adapter_name: str = "default", is_trainable: bool = False, **hub: Any
    ) -> None:
        """Adds an adapter saved by PEFT or here, of "org/name" or a folder; WeightsError if it does not fit exactly."""
        is_wide = hub.pop("autocast_adapter_dtype", True)
        folder = adapter_folder(model_id, of_hub(hub))
        config = replace(LoraConfig.from_file(folder / "adapter_config.json"), inference_mode=not is_trainable)
        self.add_adapter(adapter_name, config, autocast_adapter_dtype=is_wide)
        try:
            load_adapter(folder, self.base_model, adapter_name, config)
        except Exception:
            self.delete_adapter(adapter_name)
            raise

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside, the model is the base model."""
        merged = list(self.switch.merged)
        if merged:
            self.unmerge_adapter()
        before, self.switch.is_disabled = self.switch.is_disabled, True
        try:
            yield
        finally:
            self.switch.is_disabled = before
            if merged:
                self.merge_adapter(merged)

    def disable_adapter_layers(self) -> None:
        """From here on the model is the base model, and nothing learns, until `enable_adapter_layers`."""
        self.switch.is_disabled = True
        self.set_requires_grad(list(self.peft_config), False)

    def enable_adapter_layers(self) -> None:
        """The active adapters act and learn again."""
        self.switch.is_disabled = False
        set_trainable(self.base_model, self.peft_config, self.switch.active)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Whether adapters learn, whichever acts."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_names(names, len(names))
        for own, parameter in self.base_model.named_parameters():
            if set(own.split(".")) & set(names):
                parameter.requires_grad_(requires_grad)

    prefix = "lora_"  # what the names of its weights begin with

    @property
    def peft_type(self) -> str:
        return "LORA"

    # merging

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False) -> None:
        """Adds adapters (the active ones) into the base's weights. `unmerge_adapter` gives them back bit for bit."""
        self._not_merged("merge_adapter")
        names = self.active_adapters if adapter_names is None else list(adapter_names)
        self._check_names(names, len(names))
        for module in self.base_model.modules():
            if isinstance(module, LoraLinear | TrainedTokens):
                module.merge(names, safe_merge)
        self._tie_heads()
        self.switch.merged = names

    def unmerge_adapter(self) -> None:
        """Takes merged adapters out again."""
        for module in self.base_model.modules():
            if isinstance(module, LoraLinear | TrainedTokens):
                module.unmerge()
        self._tie_heads()
        self.switch.merged = []

    def _tie_heads(self) -> None:
        for module in self.base_model.modules():
            if isinstance(module, TiedHead):
                module.base_layer.weight = module.tables[0].base_layer.weight

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Sequence[str] | None = None
    ) -> Any:
        """The base model with adapters (the active ones) in its weights, and no trace of them beside."""
        if not self.switch.merged:
            self.merge_adapter(adapter_names, safe_merge=safe_merge)
        return self._unloaded()

    def unload(self) -> Any:
        """The base model as it was, without adapters."""
        self.unmerge_adapter()
        self.switch.active = []
        for module in self.base_model.modules():
            if isinstance(module, LoraLinear):
                module.give_back()
        return self._unloaded()

    def _unloaded(self) -> Any:
        for path, module in list(self.base_model.named_modules()):
            if isinstance(module, LoraLinear | TrainedTokens | TiedHead):
                self._put(path, module.base_layer)
            elif isinstance(module, OwnCopy):
                self._put(path, module.current)
        self.peft_config, self.switch.active, self.switch.merged = {}, [], []
        return self.base_model

    # files

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        selected_adapters: Sequence[str] | None = None,
        safe_serialization: bool = True,
        save_embedding_layers: bool | str = "auto",
        is_main_process: bool = True,
        path_initial_model_for_weight_conversion: str | os.PathLike[str] | None = None,
    ) -> None:
        """Writes adapters (all, or `selected_adapters`) as PEFT does: "default" into the folder, others each into one
        of its name inside it. A process that is not the main one writes nothing. The base's embeddings are not written:
        `modules_to_save` names what is trained whole, `trainable_token_indices` what is of few tokens."""
        if save_embedding_layers not in (False, "auto"):
            raise UnsupportedError(
                "save_embedding_layers", "the base's embeddings are not written", found=repr(save_embedding_layers),
                remedy="Name them in modules_to_save.",
            )  # fmt: skip
        if path_initial_model_for_weight_conversion is not None:
            raise UnsupportedError(
                "path_initial_model_for_weight_conversion",
                "an adapter that began with a part of the weights is written as it is, for the base it began on",
            )
        if not is_main_process:
            return
        if not safe_serialization:
            raise ArgumentError("safe_serialization", "must be True: pickles are read, never written", found=False)
        self._not_merged("save_pretrained")
        names = list(self.peft_config) if selected_adapters is None else list(selected_adapters)
        self._check_names(names, len(names))
        for name in names:
            folder = Path(save_directory) if name == "default" else Path(save_directory) / name
            folder.mkdir(parents=True, exist_ok=True)
            save_adapter(folder, self.base_model, name, self.peft_config[name])
        if names:
            base = self.peft_config[names[0]].base_model_name_or_path or self.base_model.name_or_path
            write_card(Path(save_directory), base)

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        model_id: str | os.PathLike[str],
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: LoraConfig | None = None,
        **hub: Any,
    ) -> PeftModel:
        """`model` with an adapter that PEFT or `save_pretrained` wrote, to run, or with `is_trainable` to learn.
        `config` in place of the file's."""
        is_wide = hub.pop("autocast_adapter_dtype", True)
        folder = adapter_folder(model_id, of_hub(hub))
        config = replace(
            config or LoraConfig.from_file(folder / "adapter_config.json"), inference_mode=not is_trainable
        )
        made = cls(model, config, adapter_name, is_wide)
        load_adapter(folder, model, adapter_name, config)
        return made.train(model.training)

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Nothing is uploaded here."""
        raise UnsupportedError(
            "push_to_hub", "nothing is uploaded",
            remedy="save_pretrained(folder), and upload_folder of huggingface_hub.",
        )  # fmt: skip

    # what learns

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Weights that learn, and all."""
        counts = [(each.numel(), each.requires_grad) for each in self.parameters()]
        packed = [each for each in self.modules() if isinstance(each, PackedLinear)]
        frozen = sum(each.in_features * each.out_features for each in packed)
        return sum(count for count, learns in counts if learns), sum(count for count, _ in counts) + frozen

    def get_layer_status(self) -> list[TunerLayerStatus]:
        """The state of each adapted layer."""
        return get_layer_status(self)

    def get_model_status(self) -> TunerModelStatus:
        """The state of all adapted layers together; "irregular" where they differ."""
        return get_model_status(self)

    @property
    def base_model_torch_dtype(self) -> torch.dtype:
        """The dtype of the base's weights."""
        found: torch.dtype = self.base_model.dtype
        return found

    def print_trainable_parameters(self) -> None:
        """Prints how many weights learn, of how many."""
        trainable, every = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trainable:,d} || all params: {every:,d} || trainable%: {100 * trainable / every:.4f}"
        )

    def _adapted(self, path: str) -> LoraLinear:
        module = self.base_model.get_submodule(path)
        if isinstance(module, TrainedTokens | TiedHead):
            raise ArgumentError("target_modules", "a table whose tokens are trained is not adapted as well", found=path)
        if not isinstance(module, LoraLinear):
            kind = LoraEmbedding if isinstance(module, nn.Embedding) else LoraLinear
            module = kind(module, self.switch)
            self._put(path, module)
        return module

    def _token_table(self, path: str) -> TrainedTokens:
        module = self.base_model.get_submodule(path)
        if isinstance(module, LoraLinear | OwnCopy):
            raise ArgumentError("trainable_token_indices", "the table is adapted or saved whole already", found=path)
        if not isinstance(module, TrainedTokens):
            module = TrainedTokens(module, self.switch)
            self._put(path, module)
            head = getattr(self.base_model, "lm_head", None)
            if self.base_model.arch.tied and isinstance(head, nn.Linear) and path.endswith("embed_tokens"):
                self._put("lm_head", TiedHead(head, module))
        return module

    def _own_copy(self, path: str) -> OwnCopy:
        module = self.base_model.get_submodule(path)
        if isinstance(module, LoraLinear):
            raise ArgumentError("modules_to_save", "a module is either adapted or saved whole", found=path)
        if not isinstance(module, OwnCopy):
            module = OwnCopy(module, self.switch)
            self._put(path, module)
        return module

    def _put(self, path: str, module: nn.Module) -> None:
        owner, _, leaf = path.rpartition(".")
        module.train(self.base_model.training)
        setattr(self.base_model.get_submodule(owner), leaf, module)

    # checks

    def _check_names(self, names: Sequence[str], count: int) -> None:
        if len(names) != count:
            raise ArgumentError("adapter_names", f"must be one for each of {count} rows", found=len(names))
        for name in names:
            if name not in self.peft_config and name != BASE:
                known = ", ".join(self.peft_config)
                raise ArgumentError("adapter", f"must be one of {known}", found=repr(name))

    def _not_merged(self, what: str) -> None:
        if self.switch.merged:
            raise ArgumentError(what, "adapters are merged into the weights", remedy="Call unmerge_adapter() first.")

    @contextmanager
    def _acting(self, name: str) -> Iterator[None]:
        before, was_disabled = self.switch.active, self.switch.is_disabled
        self.switch.active, self.switch.is_disabled = ([], True) if name == BASE else ([name], False)
        try:
            yield
        finally:
            self.switch.active, self.switch.is_disabled = before, was_disabled

    @contextmanager
    def _routed(self, names: Sequence[str], inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Iterator[None]:
        given = keywords.get("input_ids", inputs[0] if inputs else keywords.get("inputs_embeds"))
        if not isinstance(given, Tensor) or given.ndim < 2:
            raise ArgumentError("adapter_names", "needs input_ids of rows and tokens")
        self._not_merged("adapter_names")
        self._check_names(names, len(given))
        mask = keywords.get("attention_mask", inputs[1] if len(inputs) > 1 else None)
        _, lengths = find_padding((given.shape[0], given.shape[1]), mask)
        self.switch.routing = Routing(tuple(names), lengths)
        try:
            yield
        finally:
            self.switch.routing = None


# PEFT has a class for each task; here the base model knows its own
PeftModelForCausalLM = PeftModelForFeatureExtraction = PeftModelForQuestionAnswering = PeftModel
PeftModelForSequenceClassification = PeftModelForTokenClassification = PeftModel


def get_peft_model(
    model: Any,
    peft_config: LoraConfig,
    adapter_name: str = "default",
    mixed: bool = False,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
    low_cpu_mem_usage: bool = False,
) -> PeftModel:
    """`model`, frozen, with a new adapter that learns. The model is changed in place, as PEFT does.

    `revision` of the base is kept in the config; `autocast_adapter_dtype` as in `add_adapter`; `low_cpu_mem_usage`
    changes nothing here.
    """
    if mixed:
        raise UnsupportedError("mixed", "adapters are of one kind, LoRA", found=mixed)
    if revision is not None and isinstance(peft_config, LoraConfig):
        peft_config = replace(peft_config, revision=revision)
    return PeftModel(model, peft_config, adapter_name, autocast_adapter_dtype)


def prepare_model_for_kbit_training(
    model: Any, use_gradient_checkpointing: bool = True, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
) -> Any:
    """`model` with every weight frozen, and blocks computed again in the backward pass unless told not to."""
    if unknown := set(gradient_checkpointing_kwargs or {}) - {"use_reentrant"}:
        raise UnsupportedError("gradient_checkpointing_kwargs", "each block is checkpointed", found=sorted(unknown))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if use_gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model
