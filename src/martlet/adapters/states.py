"""An adapter's tensors by the names they have in PEFT's files, out of a model and into one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from martlet.adapters.files import PICKLE, WEIGHTS, adapter_folder, adapter_state, fill_adapter, of_hub
from martlet.adapters.model import PeftModel
from martlet.formats import open_weights
from martlet.nn.load import read_tensor


def get_peft_model_state_dict(
    model: PeftModel, adapter_name: str = "default", save_embedding_layers: bool | str = "auto"
) -> dict[str, Tensor]:
    """One adapter's tensors under the names they have in a file of PEFT's; `save_embedding_layers` as in
    `PeftModel.save_pretrained`."""
    model.base_model.check_names([adapter_name], 1)
    config = model.peft_config[adapter_name]
    return adapter_state(model.get_base_model(), adapter_name, config, save_embedding_layers)[0]


def set_peft_model_state_dict(
    model: PeftModel, peft_model_state_dict: Mapping[str, Tensor], adapter_name: str = "default"
) -> None:
    """Fills an adapter from such tensors; WeightsError if they are not exactly its own."""
    model.base_model.check_names([adapter_name], 1)
    config, held = model.peft_config[adapter_name], peft_model_state_dict
    fill_adapter(model.get_base_model(), adapter_name, config, "state dict", held, lambda key: held[key])


def load_peft_weights(model_id: str | os.PathLike[str], device: str | None = None, **hub: Any) -> dict[str, Tensor]:
    """The tensors of an adapter, of "org/name" or a folder, by PEFT's names."""
    folder = adapter_folder(model_id, of_hub(hub))
    source = open_weights(next(folder / each for each in (WEIGHTS, PICKLE) if (folder / each).is_file()))
    return {key: read_tensor(source, key).clone().to(device or "cpu") for key in source.names()}
