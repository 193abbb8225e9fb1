"""`LoraModel`: a torch module with adapters in it: put in, switched, merged, taken out, in PEFT's names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from martlet.adapters.combine import Mixing, add_weighted
from martlet.adapters.config import LoraConfig
from martlet.adapters.embeddings import LoraEmbedding, TiedHead, TrainedTokens
from martlet.adapters.files import is_own
from martlet.adapters.layers import BASE, LoraLinear, OwnCopy, Switch
from martlet.adapters.targets import find_matrices, find_saved_whole, find_token_tables, set_trainable
from martlet.errors import ArgumentError, UnsupportedError


class LoraModel(nn.Module):
    """A module of torch's, one of martlet's models or any other, with LoRA in its layers, which are changed in place.

    Its weights are frozen; the active adapter learns. Calls and attributes it does not have itself are the module's.
    """

    def __init__(
        self,
        model: Any,
        config: LoraConfig,
        adapter_name: str = "default",
        low_cpu_mem_usage: bool = False,
        autocast_adapter_dtype: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or hasattr(model, "peft_config"):
            raise ArgumentError("get_peft_model", "needs a torch model without adapters", found=type(model).__name__)
        self.model: Any = model
        self.peft_config: dict[str, LoraConfig] = {}
        self.switch = Switch()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.add_adapter(adapter_name, config, low_cpu_mem_usage, autocast_adapter_dtype)
        self.set_adapter(adapter_name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.model(*inputs, **keywords)

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
        self.check_unmerged("add_adapter")
        config = replace(peft_config)
        if config.bias != "none" and any(each.bias != "none" for each in self.peft_config.values()):
            raise UnsupportedError("bias", "only one adapter of a model may train the base's biases")
        whole = find_saved_whole(self.model, config)
        found = {path: paths for path, paths in find_matrices(self.model, config).items() if path not in whole}
        for path, paths in found.items():
            layer = self._adapted(path)
            layer.add(adapter_name, config, paths)
            if config.use_dora:
                layer.add_magnitude(adapter_name)
            if not autocast_adapter_dtype:
                layer.narrow(adapter_name)
        for path in whole:
            self._own_copy(path).add(adapter_name)
        for path, tokens in find_token_tables(self.model, config).items():
            self._token_table(path).add(adapter_name, tokens)
        self.peft_config[adapter_name] = config
        set_trainable(self.model, self.peft_config, self.switch.active)

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
        self.check_names(names, len(names))
        self.check_unmerged("set_adapter")
        self.switch.active = names
        set_trainable(self.model, self.peft_config, self.switch.active)
        if inference_mode:
            self.set_requires_grad(names, False)

    def delete_adapter(self, adapter_name: str) -> None:
        """Takes an adapter out; the first of the others becomes active if it was."""
        self.check_names([adapter_name], 1)
        self.check_unmerged("delete_adapter")
        for module in self.model.modules():
            if isinstance(module, LoraLinear | OwnCopy | TrainedTokens):
                module.remove(adapter_name)
        del self.peft_config[adapter_name]
        self.switch.active = [name for name in self.switch.active if name != adapter_name] or list(self.peft_config)[:1]
        set_trainable(self.model, self.peft_config, self.switch.active)

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
        set_trainable(self.model, self.peft_config, self.switch.active)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Whether adapters learn, whichever acts."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self.check_names(names, len(names))
        for own, parameter in self.model.named_parameters():
            if set(own.split(".")) & set(names):
                parameter.requires_grad_(requires_grad)

    prefix = "lora_"  # what the names of its weights begin with

    @property
    def peft_type(self) -> str:
        return "LORA"

    # merging

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, *, safe_merge: bool = False) -> None:
        """Adds adapters (the active ones) into the base's weights, beside those merged before. `unmerge_adapter` gives
        the weights back bit for bit."""
        names = self.active_adapters if adapter_names is None else list(adapter_names)
        self.check_names(names, len(names))
        before = list(self.switch.merged)
        if before:
            self.unmerge_adapter()
        names = list(dict.fromkeys([*before, *names]))
        for module in self.model.modules():
            if isinstance(module, LoraLinear | TrainedTokens):
                module.merge(names, safe_merge)
        self._tie_heads()
        self.switch.merged = names

    def unmerge_adapter(self) -> None:
        """Takes merged adapters out again."""
        for module in self.model.modules():
            if isinstance(module, LoraLinear | TrainedTokens):
                module.unmerge()
        self._tie_heads()
        self.switch.merged = []

    def _tie_heads(self) -> None:
        for module in self.model.modules():
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
        for module in self.model.modules():
            if isinstance(module, LoraLinear):
                module.give_back()
        return self._unloaded()

    def _unloaded(self) -> Any:
        for path, module in list(self.model.named_modules()):
            if isinstance(module, LoraLinear | TrainedTokens | TiedHead):
                self._put(path, module.base_layer)
            elif isinstance(module, OwnCopy):
                self._put(path, module.current)
        self.peft_config, self.switch.active, self.switch.merged = {}, [], []
        return self.model

    # places

    def _adapted(self, path: str) -> LoraLinear:
        module = self.model.get_submodule(path)
        if isinstance(module, TrainedTokens | TiedHead):
            raise ArgumentError("target_modules", "a table whose tokens are trained is not adapted as well", found=path)
        if not isinstance(module, LoraLinear):
            kind = LoraEmbedding if isinstance(module, nn.Embedding) else LoraLinear
            module = kind(module, self.switch)
            self._put(path, module)
        return module

    def _token_table(self, path: str) -> TrainedTokens:
        module = self.model.get_submodule(path)
        if isinstance(module, LoraLinear | OwnCopy):
            raise ArgumentError("trainable_token_indices", "the table is adapted or saved whole already", found=path)
        if not isinstance(module, TrainedTokens):
            heads = self._heads_of(module)
            module = TrainedTokens(module, self.switch)
            self._put(path, module)
            for head in heads:
                self._put(head, TiedHead(self.model.get_submodule(head), module))
        return module

    def _heads_of(self, table: nn.Module) -> list[str]:
        """Paths of the linear layers whose matrix is this table."""
        if is_own(self.model) and not self.model.arch.tied:
            return []
        return [
            path
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and module.weight is table.weight
        ]

    def _own_copy(self, path: str) -> OwnCopy:
        module = self.model.get_submodule(path)
        if isinstance(module, LoraLinear):
            raise ArgumentError("modules_to_save", "a module is either adapted or saved whole", found=path)
        if not isinstance(module, OwnCopy):
            module = OwnCopy(module, self.switch)
            self._put(path, module)
        return module

    def _put(self, path: str, module: nn.Module) -> None:
        owner, _, leaf = path.rpartition(".")
        module.train(self.model.training)
        setattr(self.model.get_submodule(owner), leaf, module)

    # checks

    def check_names(self, names: Sequence[str], count: int) -> None:
        if len(names) != count:
            raise ArgumentError("adapter_names", f"must be one for each of {count} rows", found=len(names))
        for name in names:
            if name not in self.peft_config and name != BASE:
                known = ", ".join(self.peft_config)
                raise ArgumentError("adapter", f"must be one of {known}", found=repr(name))

    def check_unmerged(self, what: str) -> None:
        if self.switch.merged:
            raise ArgumentError(what, "adapters are merged into the weights", remedy="Call unmerge_adapter() first.")
