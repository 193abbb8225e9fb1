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

from martlet.adapters.config import LoraConfig
from martlet.adapters.files import adapter_folder, is_own, load_adapter, of_hub, save_adapter, write_card
from martlet.adapters.layers import BASE, Routing, Switch
from martlet.adapters.status import TunerLayerStatus, TunerModelStatus, get_layer_status, get_model_status
from martlet.adapters.tuner import LoraModel
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.packed import PackedLinear
from martlet.nn.ragged import find_padding


class PeftModel(nn.Module):
    """A model with LoRA adapters. What it does not have itself is `base_model`'s, a `LoraModel`, where adapters are put
    in, switched and merged, or of the model inside.

    `adapter_names`, one for each row of a call or of `generate`, sends each row through its own: "__base__" is none.
    """

    def __init__(
        self, model: Any, peft_config: LoraConfig, adapter_name: str = "default", autocast_adapter_dtype: bool = True
    ) -> None:
        super().__init__()
        self.base_model = LoraModel(model, peft_config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    @property
    def switch(self) -> Switch:
        return self.base_model.switch

    @property
    def peft_config(self) -> dict[str, LoraConfig]:
        """Each adapter's config by its name."""
        return self.base_model.peft_config

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
        self.base_model.check_names(adapter_names, len(ids))
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
        pads = (keywords.get("pad_token_id"), self.generation_config.pad_token_id)
        pad = next((each for each in (*pads, _pad_of(self.config)) if each is not None), 0)
        return torch.cat(
            [nn.functional.pad(rows[row], (0, width - rows[row].shape[1]), value=pad) for row in sorted(rows)]
        )

    def get_base_model(self) -> Any:
        """The model inside, with its adapted layers."""
        return self.base_model.model

    # adapters

    def load_adapter(
        self, model_id: str | os.PathLike[str], adapter_name: str = "default", is_trainable: bool = False, **hub: Any
    ) -> None:
        """Adds an adapter saved by PEFT or here, of "org/name" or a folder; WeightsError if it does not fit exactly."""
        is_wide = hub.pop("autocast_adapter_dtype", True)
        folder = adapter_folder(model_id, of_hub(hub))
        config = replace(LoraConfig.from_file(folder / "adapter_config.json"), inference_mode=not is_trainable)
        self.base_model.add_adapter(adapter_name, config, autocast_adapter_dtype=is_wide)
        try:
            load_adapter(folder, self.get_base_model(), adapter_name, config)
        except Exception:
            self.base_model.delete_adapter(adapter_name)
            raise

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
        of its name inside it. A process that is not the main one writes nothing. `save_embedding_layers`
        True: with the base's embeddings and head; "auto": if an adapter is on them, or ids came after loading."""
        if save_embedding_layers not in (True, False, "auto"):
            raise ArgumentError(
                "save_embedding_layers", "must be True, False or 'auto'", found=repr(save_embedding_layers)
            )
        if path_initial_model_for_weight_conversion is not None:
            raise UnsupportedError(
                "path_initial_model_for_weight_conversion",
                "an adapter that began with a part of the weights is written as it is, for the base it began on",
            )
        if not is_main_process:
            return
        if not safe_serialization:
            raise ArgumentError("safe_serialization", "must be True: pickles are read, never written", found=False)
        self.base_model.check_unmerged("save_pretrained")
        names = list(self.peft_config) if selected_adapters is None else list(selected_adapters)
        self.base_model.check_names(names, len(names))
        for name in names:
            folder = Path(save_directory) if name == "default" else Path(save_directory) / name
            folder.mkdir(parents=True, exist_ok=True)
            save_adapter(folder, self.get_base_model(), name, self.peft_config[name], save_embedding_layers)
        if names:
            base = self.peft_config[names[0]].base_model_name_or_path or getattr(
                self.get_base_model(), "name_or_path", None
            )
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
        model = self.get_base_model()
        found: torch.dtype = model.dtype if hasattr(model, "dtype") else next(model.parameters()).dtype
        return found

    def print_trainable_parameters(self) -> None:
        """Prints how many weights learn, of how many."""
        trainable, every = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trainable:,d} || all params: {every:,d} || trainable%: {100 * trainable / every:.4f}"
        )

    # checks

    @contextmanager
    def _acting(self, name: str) -> Iterator[None]:
        switch = self.switch
        before, was_disabled = switch.active, switch.is_disabled
        switch.active, switch.is_disabled = ([], True) if name == BASE else ([name], False)
        try:
            yield
        finally:
            switch.active, switch.is_disabled = before, was_disabled

    @contextmanager
    def _routed(self, names: Sequence[str], inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Iterator[None]:
        self.base_model.check_unmerged("adapter_names")
        lengths = _row_lengths(is_own(self.get_base_model()), inputs, keywords)
        self.base_model.check_names(names, len(lengths))
        self.switch.routing = Routing(tuple(names), lengths)
        try:
            yield
        finally:
            self.switch.routing = None


def _row_lengths(is_ragged: bool, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> tuple[int, ...]:
    """How many of what adapted layers see as their first size belong to each row of a call."""
    if not is_ragged:
        given = next((each for each in (*inputs, *keywords.values()) if isinstance(each, Tensor) and each.ndim), None)
        if given is None:
            raise ArgumentError("adapter_names", "needs a tensor of rows")
        return (1,) * len(given)
    given = keywords.get("input_ids", inputs[0] if inputs else keywords.get("inputs_embeds"))
    if not isinstance(given, Tensor) or given.ndim < 2:
        raise ArgumentError("adapter_names", "needs input_ids of rows and tokens")
    mask = keywords.get("attention_mask", inputs[1] if len(inputs) > 1 else None)
    return find_padding((given.shape[0], given.shape[1]), mask)[1]


def _pad_of(config: Any) -> Any:
    return config.get("pad_token_id") if hasattr(config, "get") else getattr(config, "pad_token_id", None)


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


def cast_mixed_precision_params(model: nn.Module, dtype: torch.dtype) -> None:
    """What does not learn in `dtype`, what learns in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
