"""Checkpoints that see pictures too: their text part gives what Hugging Face's whole model gives for text."""

import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import martlet
from martlet import checkpoint
from martlet.errors import ConfigError, UnknownFamilyError
from martlet.families import Config
from martlet.families.multimodal import text_part

TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "max_position_embeddings": 64,
    "query_pre_attn_scalar": 8,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
# As published: sizes at their default are left out.
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders by the names of their tensors, and the model of Hugging Face's in them."""
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=1, image_token_index=98, boi_token_index=97,
        eoi_token_index=96, eos_token_id=[1, 2],
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    folder = tmp_path_factory.mktemp("gemma3")
    for name in ("beside", "under"):
        model.save_pretrained(folder / name)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "under" / "model.safetensors", {"format": "pt"})
    older = {
        name.replace("model.language_model.", "language_model.model.")
        .replace("model.vision", "vision")
        .replace("model.multi", "multi"): tensor
        for name, tensor in state.items()
    }
    save_file(older, folder / "beside" / "model.safetensors", {"format": "pt"})
    return folder, model


@pytest.mark.parametrize("names", ["beside", "under"])
def test_logits_and_greedy_ids(whole, names, caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "_said", set())
    folder, theirs = whole
    ids = torch.arange(3, 23)[None]
    with caplog.at_level(logging.INFO, "martlet"):
        ours = martlet.AutoModelForCausalLM.from_pretrained(folder / names, dtype="float32")
    assert "its text part alone is loaded" in caplog.text
    assert ours.config.model_type == "gemma3_text" and ours.config.eos_token_id == [1, 2]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=2e-4, rtol=2e-4)
    made = theirs.generate(ids, max_new_tokens=6, do_sample=False)
    assert ours.generate(ids, max_new_tokens=6, do_sample=False).tolist() == made.tolist()
    native = martlet.AutoModelForCausalLM.from_pretrained(folder / names, backend="native")
    assert native.generate(ids, max_new_tokens=6, do_sample=False).tolist() == made.tolist()


def test_what_is_saved_is_the_text_part(whole, tmp_path):
    folder, theirs = whole
    martlet.AutoModelForCausalLM.from_pretrained(folder / "beside").save_pretrained(tmp_path)
    assert all(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again).__name__ == "Gemma3ForCausalLM"
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=2e-4, rtol=2e-4)


def test_sizes_that_a_published_config_leaves_out():
    values = text_part(GEMMA3_4B)
    theirs = transformers.Gemma3Config(**GEMMA3_4B).text_config
    arch = Config(values).arch
    assert arch == Config({**theirs.to_dict(), "architectures": None}).arch
    assert (arch.vocab_size, arch.num_attention_heads, arch.hidden_size) == (262208, 8, 2560)
    assert arch.layers[5].rope is not None and arch.layers[5].rope.scaling is not None


def test_parts_that_are_not_there():
    with pytest.raises(ConfigError, match="text_config must be an object"):
        text_part({"model_type": "gemma3", "text_config": [1]})
    other = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    assert text_part(other) == other
    with pytest.raises(UnknownFamilyError, match="This is a multimodal checkpoint"):
        Config(other).arch  # noqa: B018
