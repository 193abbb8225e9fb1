"""What an adapter's file holds of the base: embeddings and head with rows that no checkpoint has, beside PEFT's."""

import pytest
import torch

import martlet
from martlet.errors import ArgumentError, WeightsError
from martlet.training import LoraConfig, PeftModel, get_peft_model

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# of peft itself, on the newest transformers
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
SIZES = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.2,
)  # fmt: skip


def written(folder, tied):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def resized(library, base):
    load = transformers.AutoModelForCausalLM if library is peft else martlet.AutoModelForCausalLM
    model = load.from_pretrained(base)
    model.resize_token_embeddings(99)
    return model


@pytest.mark.parametrize("settings", [
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
])  # fmt: skip
@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_go_with_the_adapter_both_ways(tied, settings, tmp_path):
    """Their rows, that no checkpoint has, lie in the adapter's file: PEFT's `save_embedding_layers`."""
    if tied and "lm_head" in settings["target_modules"]:
        settings = {"target_modules": ["q_proj", "embed_tokens"]}
    base = written(tmp_path / "base", tied)
    rows = torch.tensor([[5, 96, 97, 98, 7]])
    kinds = {peft: (peft.get_peft_model, peft.LoraConfig), martlet: (get_peft_model, LoraConfig)}
    for library, (make, kind) in kinds.items():
        model = make(resized(library, base), kind(r=3, init_lora_weights=False, **settings)).eval()
        with torch.no_grad():
            model.get_input_embeddings().weight.data[96:] = torch.randn(3, 32)
            want = model(rows).logits
            model.save_pretrained(tmp_path / library.__name__)
            for reader, kind in ((peft, peft.PeftModel), (martlet, PeftModel)):
                read = kind.from_pretrained(resized(reader, base), tmp_path / library.__name__).eval()
                atol = 1e-5 * want.abs().max().item()
                got = read(rows).logits
                # PEFT leaves a head out that no adapter is on, if one is on the embeddings: its new rows are anybody's
                known = 96 if library is peft and settings["target_modules"][-1] == "embed_tokens" else 99
                torch.testing.assert_close(got[..., :known], want[..., :known], atol=atol, rtol=1e-4)
        folder = tmp_path / library.__name__
    with pytest.raises(WeightsError, match=r"resize_token_embeddings\(99\)|must be of shape"):
        PeftModel.from_pretrained(martlet.AutoModelForCausalLM.from_pretrained(base), folder)


def test_the_embeddings_go_along_when_asked(tmp_path):
    from safetensors.torch import load_file

    base = martlet.AutoModelForCausalLM.from_pretrained(written(tmp_path / "base", False))
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    for asked, expected in (("auto", 0), (False, 0), (True, 2)):
        model.save_pretrained(tmp_path / str(asked), save_embedding_layers=asked)
        saved = load_file(tmp_path / str(asked) / "adapter_model.safetensors")
        assert len([each for each in saved if "lora_" not in each]) == expected
    with pytest.raises(ArgumentError, match="save_embedding_layers: must be True, False or 'auto'"):
        model.save_pretrained(tmp_path, save_embedding_layers="yes")
