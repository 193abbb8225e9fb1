"""Adapters on a base kept in blocks: the products are those of its unpacked weights, and only adapters learn."""

import numpy as np
import pytest
import torch

import martlet
from martlet.errors import ArgumentError, UnsupportedError
from martlet.nn.packed import PackedLinear, quantize_rows
from martlet.training import LoraConfig, get_peft_model, prepare_model_for_kbit_training

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    martlet.set_seed(0)
    path = tmp_path_factory.mktemp("base")
    config = martlet.AutoConfig.for_model("llama", **LLAMA, initializer_range=0.2)
    martlet.AutoModelForCausalLM.from_config(config, dtype="float32").save_pretrained(path)
    return path


def ids():
    return torch.arange(3, 21).reshape(2, 9)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_blocks_are_ggmls(kind):
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    values[2, 32:64] = 0
    want = gguf.quantize(values, getattr(gguf.GGMLQuantizationType, kind))
    assert np.array_equal(quantize_rows(values, kind).reshape(-1), want.reshape(-1))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_packed_base_computes_as_its_unpacked_weights(folder, quantize):
    packed = martlet.AutoModelForCausalLM.from_pretrained(folder, quantize=quantize)
    plain = martlet.AutoModelForCausalLM.from_pretrained(folder)
    kinds = {type(each) for name, each in packed.named_modules() if name.endswith("_proj")}
    assert kinds == {PackedLinear}
    with torch.no_grad():
        exact = plain(ids()).logits
        for name, module in packed.named_modules():
            if isinstance(module, PackedLinear):
                other = plain.get_submodule(name)
                assert 0 < (module.weight - other.weight).abs().max() < (0.01 if quantize == "int8" else 0.15)
                other.weight = torch.nn.Parameter(module.weight)
    embeds = plain.get_input_embeddings()(ids()).detach()
    grads = []
    for model in (packed, plain):
        given = embeds.clone().requires_grad_()
        logits = model(inputs_embeds=given).logits
        logits.square().mean().backward()
        grads.append((logits.detach(), given.grad))
    for ours, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.equal(grads[0][0], exact)


def test_qlora_learns_in_adapters_alone_and_merges_on_floats(folder, tmp_path):
    model = martlet.AutoModelForCausalLM.from_pretrained(folder, quantize="int4")
    model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=4, target_modules="all-linear")).train()
    before = {name: each.clone() for name, each in model.named_buffers()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    losses = []
    for _ in range(12):
        loss = model(ids(), labels=ids()).loss
        losses.append(loss.item())
        loss.backward()
        assert {name for name, each in model.named_parameters() if each.grad is not None} == {
            name for name, _ in model.named_parameters() if "lora_" in name
        }
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(before[name], each) for name, each in model.named_buffers())
    trainable, every = model.get_nb_trainable_parameters()
    assert every - trainable == martlet.AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    with pytest.raises(UnsupportedError, match=r"Q4_0 blocks would be rounded again"):
        model.merge_and_unload()
    model.save_pretrained(tmp_path)
    from martlet.training import PeftModel

    PeftModel.from_pretrained(martlet.AutoModelForCausalLM.from_pretrained(folder), tmp_path).merge_and_unload()


def test_memory_is_the_blocks(folder):
    packed = martlet.AutoModelForCausalLM.from_pretrained(folder, quantize="int4")
    layers = [each for each in packed.modules() if isinstance(each, PackedLinear)]
    weights = sum(each.in_features * each.out_features for each in layers)
    assert sum(each.packed.nbytes for each in layers) == weights * 18 // 32
    assert not any(each.numel() for name, each in packed.named_parameters() if name.endswith("_proj.weight"))


def test_what_is_refused(folder):
    with pytest.raises(ArgumentError, match="quantize: must be one of int8, int4; found 'int3'"):
        martlet.AutoModelForCausalLM.from_pretrained(folder, quantize="int3")
    packed = martlet.AutoModelForCausalLM.from_pretrained(folder, quantize="int8")
    with pytest.raises(ArgumentError, match="must have every tensor of the model"):
        packed.save_pretrained(folder / "never")


def test_a_gguf_files_blocks_stay_as_they_are(smollm2_gguf):
    packed = martlet.AutoModelForCausalLM.from_pretrained(smollm2_gguf, quantize="int4")
    plain = martlet.AutoModelForCausalLM.from_pretrained(smollm2_gguf, backend="torch")
    layer = "model.layers.3.self_attn.q_proj"  # its rows lie in another order in the file
    assert torch.equal(packed.get_submodule(layer).weight, plain.get_submodule(layer).weight)
    with torch.no_grad():
        torch.testing.assert_close(packed(ids()).logits, plain(ids()).logits, atol=1e-3, rtol=1e-3)
    assert sum(each.nbytes for each in packed.buffers()) < 80e6
