"""What PEFT's status reports say of the same adapters on the same model."""

import dataclasses

import pytest
import torch

from martlet import AutoModelForCausalLM
from martlet.errors import ArgumentError, UnsupportedError
from martlet.training import LoraConfig, PeftModel, get_model_status, get_peft_model

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZES = dict(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


def both(base):
    theirs = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(target_modules=["q_proj"])
    )
    ours = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"]))
    theirs.add_adapter("other", peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    ours.add_adapter("other", LoraConfig(target_modules=["q_proj", "v_proj"]))
    return ours, theirs


def seen(model):
    status = dataclasses.asdict(model.get_model_status())
    layers = [dataclasses.asdict(each) for each in model.get_layer_status()]
    return status, layers


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # transformers' to peft
@pytest.mark.parametrize("act", [
    lambda model: None,
    lambda model: model.set_adapter("other"),
    lambda model: model.merge_adapter(),
    lambda model: (model.set_adapter("other"), model.merge_adapter()),
    lambda model: next(each for name, each in model.named_parameters() if "lora_A" in name).requires_grad_(False),
    lambda model: model.base_model.disable_adapter_layers(),
])  # fmt: skip
def test_status_is_pefts(base, act):
    ours, theirs = both(base)
    act(ours)
    act(theirs)
    (status, layers), (wanted, wanted_layers) = seen(ours), seen(theirs)
    for each in (status, wanted):
        del each["base_model_type"]
    assert status == wanted
    assert [each | {"name": ""} for each in layers] == [each | {"name": ""} for each in wanted_layers]
    assert [each["name"] for each in layers] == [each["name"] for each in wanted_layers]


def test_a_model_without_adapters_has_no_status(base):
    with pytest.raises(ArgumentError, match="needs a model with adapters"):
        get_model_status(AutoModelForCausalLM.from_pretrained(base))


def test_names_around(base):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), LoraConfig())
    assert isinstance(model, PeftModel) and model.base_model_torch_dtype == torch.bfloat16
    with pytest.raises(UnsupportedError, match="save_pretrained"):
        model.push_to_hub("me/mine")
