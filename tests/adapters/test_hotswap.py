"""Adapters changed in place, beside PEFT's functions: another's weights, how strongly one acts, LoftQ's beginning."""

import pytest
import torch

import martlet
from martlet.errors import ArgumentError, UnsupportedError
from martlet.training import (
    LoraConfig,
    get_peft_model,
    hotswap_adapter,
    replace_lora_weights_loftq,
    rescale_adapter_scale,
)

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
# of peft itself, on the newest transformers
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")

SIZES = dict(
    vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    config = transformers.LlamaConfig(**SIZES, initializer_range=0.2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load(base, **keywords):
    return martlet.AutoModelForCausalLM.from_pretrained(base, **keywords)


def ids():
    return torch.arange(3, 21).reshape(2, 9)


def config(**changes):
    return {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **changes}


@pytest.mark.parametrize("other", [
    {}, {"r": 2, "lora_alpha": 16}, {"r": 8}, {"target_modules": ["v_proj"]}, {"rank_pattern": {"q_proj": 3}},
])  # fmt: skip
def test_another_adapter_in_the_place_of_one_is_as_pefts(base, other, tmp_path):
    new = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), peft.LoraConfig(**config(**other)))
    new.save_pretrained(tmp_path)
    theirs = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), peft.LoraConfig(**config()))
    ours = get_peft_model(load(base), LoraConfig(**config()))
    from peft.utils.hotswap import hotswap_adapter as their_hotswap

    their_hotswap(theirs, tmp_path, "default")
    hotswap_adapter(ours, tmp_path, "default")
    assert list(ours.peft_config) == ["default"] and ours.active_adapters == ["default"]
    with torch.no_grad():
        want = new.eval()(ids()).logits
        if "rank_pattern" not in other:  # of which PEFT's takes the scaling by r
            torch.testing.assert_close(theirs.eval()(ids()).logits, want, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours(ids()).logits, want, atol=1e-5, rtol=1e-4)
        ours.save_pretrained(tmp_path / "again")
        again = peft.PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(base), tmp_path / "again")
        torch.testing.assert_close(again.eval()(ids()).logits, want, atol=1e-5, rtol=1e-4)


def test_adapters_that_do_not_fit_leave_the_old_one(base, tmp_path):
    ours = get_peft_model(load(base), LoraConfig(**config()))
    with torch.no_grad():
        want = ours(ids()).logits
        for name, changes, said in (
            ("wide", {"target_modules": ["q_proj", "k_proj"]}, "layers that the old one lacks"),
            ("dora", {"use_dora": True}, "the same use_dora"),
            ("whole", {"modules_to_save": ["lm_head"]}, "low-rank weights alone"),
            ("taken", {"init_lora_weights": "olora"}, "stays with its base"),
        ):
            get_peft_model(load(base), LoraConfig(**config(**changes))).save_pretrained(tmp_path / name)
            with pytest.raises((ArgumentError, UnsupportedError), match=said):
                hotswap_adapter(ours, tmp_path / name, "default")
            assert torch.equal(ours(ids()).logits, want) and list(ours.peft_config) == ["default"]


def test_an_adapter_acts_as_strongly_as_asked(base):
    from peft.helpers import rescale_adapter_scale as their_rescale

    theirs = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), peft.LoraConfig(**config()))
    ours = get_peft_model(load(base), LoraConfig(**config()))
    from martlet.training import set_peft_model_state_dict

    set_peft_model_state_dict(ours, peft.get_peft_model_state_dict(theirs))
    with torch.no_grad():
        full = ours(ids()).logits
        with rescale_adapter_scale(ours, 0.5), their_rescale(theirs, 0.5):
            half = ours(ids()).logits
            torch.testing.assert_close(half, theirs.eval()(ids()).logits, atol=1e-5, rtol=1e-4)
            assert not torch.equal(half, full)
        assert torch.equal(ours(ids()).logits, full)
    with pytest.raises(ArgumentError, match="needs a model with adapters"), rescale_adapter_scale(load(base), 0.5):
        pass
    with pytest.raises(ArgumentError, match="must be a number"), rescale_adapter_scale(ours, "1"):
        pass


@pytest.mark.parametrize(("quantize", "rank", "alpha"), [("int4", 8, 8), ("int4", 32, 64), ("int8", 4, 2)])
def test_loftq_begins_with_what_blocks_have_rounded_away(base, quantize, rank, alpha):
    """As peft.utils.loftq_utils has it, whose quantised matrix is here in blocks; the scaling is taken into account."""
    from peft.utils.loftq_utils import _low_rank_decomposition

    plain = load(base)
    model = get_peft_model(
        load(base, quantize=quantize), LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    )
    with torch.no_grad():
        exact, before = plain(ids()).logits, model(ids()).logits
        replace_lora_weights_loftq(model)
        for path, layer in model.get_base_model().named_modules():
            if hasattr(layer, "lora_A"):
                weight, packed = plain.get_submodule(path).weight, layer.base_layer.weight
                want = _low_rank_decomposition(weight - packed, rank)
                got = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
                torch.testing.assert_close(got, want["L"] @ want["R"], atol=1e-6, rtol=1e-4)
                assert (weight - packed - got).norm() < 0.9 * (weight - packed).norm()
        assert (model(ids()).logits - exact).norm() < (before - exact).norm()
        if rank == SIZES["hidden_size"]:  # full rank for all but the longer side
            torch.testing.assert_close(model(ids()).logits, exact, atol=1e-3, rtol=1e-3)


def test_loftq_is_taken_back_where_it_is_no_better(base):
    model = get_peft_model(load(base, quantize="int4"), LoraConfig(r=4, target_modules=["q_proj"]))
    seen = []
    with torch.no_grad():
        before = model(ids()).logits
        replace_lora_weights_loftq(model, base / "model.safetensors", callback=lambda at, name: bool(seen.append(name)))
        assert torch.equal(model(ids()).logits, before)
    assert seen == [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]


def test_what_loftq_needs(base):
    with pytest.raises(ArgumentError, match=r"on matrices in blocks.*quantize='int4'"):
        replace_lora_weights_loftq(get_peft_model(load(base), LoraConfig()))
    with pytest.raises(UnsupportedError, match=r"found 'loftq'.*replace_lora_weights_loftq"):
        LoraConfig(init_lora_weights="loftq")
    with pytest.raises(UnsupportedError, match=r"loftq_config.*replace_lora_weights_loftq"):
        LoraConfig(loftq_config={"loftq_bits": 4})
