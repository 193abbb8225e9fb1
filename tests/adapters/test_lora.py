"""Adapters against PEFT: files of either in the other with equal logits; merging, switching, what learns."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

import martlet
from martlet.errors import ArgumentError, UnsupportedError, WeightsError
from martlet.training import LoraConfig, PeftModel, get_peft_model

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
peft = pytest.importorskip("peft")
from tiny_models import TINY, TINY_ENCODERS  # noqa: E402

# of peft itself, on the newest transformers
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
TOLERANCE = 2e-5  # float32, logits of several units, three layers
FUSED = {"r": 4, "target_modules": ["query_key_value"]}
SEQ = {"task_type": "SEQ_CLS"}
# family, door, PEFT's config, ours where the names differ
CASES = {
    "plain": ("llama", "CausalLM", {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}, {}),
    "regex": ("qwen2", "CausalLM", {"r": 4, "target_modules": r".*\.1\.self_attn\.(k|o)_proj"}, {}),
    "dora-rs": (
        "llama",
        "CausalLM",
        {"r": 4, "target_modules": "all-linear", "use_dora": True, "use_rslora": True},
        {},
    ),
    "patterns": (
        "llama",
        "CausalLM",
        {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {},
    ),
    "layers": ("llama", "CausalLM", {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [0, 2]}, {}),
    "whole": ("llama", "CausalLM", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, {}),
    "embeddings": ("llama", "CausalLM", {"r": 4, "target_modules": ["embed_tokens", "v_proj"]}, {}),
    "dora-embeddings": (
        "llama",
        "CausalLM",
        {"r": 4, "lora_alpha": 6, "target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
        {},
    ),
    "tokens": ("llama", "CausalLM", {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [5, 3]}, {}),
    "tied-tokens": (
        "gemma2",
        "CausalLM",
        {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 4, 40]}},
        {},
    ),
    "pissa": (
        "llama",
        "CausalLM",
        {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": "pissa"},
        {},
    ),
    "olora": ("llama", "CausalLM", {"r": 4, "target_modules": ["k_proj"], "init_lora_weights": "olora"}, {}),
    "orthogonal": ("llama", "CausalLM", {"r": 4, "target_modules": ["k_proj"], "init_lora_weights": "orthogonal"}, {}),
    "transposed": (
        "gpt2",
        "CausalLM",
        {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    ),
    "fused": ("phi3", "CausalLM", {"r": 4, "target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}, {}),
    "fused-by-head": ("gpt_neox", "CausalLM", FUSED, {"target_modules": ["q_proj", "v_proj"], "use_dora": True}),
    "bert": (
        "bert",
        "SequenceClassification",
        {"r": 4, "target_modules": ["query", "value"], "bias": "all", **SEQ},
        {},
    ),
    "roberta": ("roberta", "SequenceClassification", {"r": 4, "target_modules": "all-linear", **SEQ}, {}),
    "distilbert": (
        "distilbert",
        "SequenceClassification",
        {"r": 4, "target_modules": ["q_lin"], "modules_to_save": ["pre_classifier"], "bias": "lora_only", **SEQ},
        {},
    ),
}


UNCHANGED = ("whole", "pissa", "olora", "orthogonal")  # an adapter's first weights that leave the model as it was


def hugging_face(door, name, folder):
    model_type, keywords = {**TINY, **TINY_ENCODERS}[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords))
    model = getattr(transformers, f"AutoModelFor{door}").from_config(config).float().eval()
    for key, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and key.endswith("weight")
        parameter.data.normal_(1.0 if is_scale else 0.0, 0.2)
    model.save_pretrained(folder)
    return model


def ids():
    torch.manual_seed(1)
    return torch.randint(3, 96, (2, 9))


@pytest.mark.parametrize("case", CASES)
def test_files_of_either_library_in_the_other(case, tmp_path):
    name, door, theirs, other = CASES[case]
    base, theirs = tmp_path / "base", {"init_lora_weights": False, **theirs}
    adapted = peft.get_peft_model(hugging_face(door, name, base), peft.LoraConfig(**theirs)).eval()
    adapted.save_pretrained(tmp_path / "theirs")
    load = getattr(martlet, f"AutoModelFor{door}").from_pretrained
    reload = getattr(transformers, f"AutoModelFor{door}").from_pretrained
    with torch.no_grad():
        plain, want = load(base)(ids())[0], adapted(ids())[0]
        ours = PeftModel.from_pretrained(load(base), tmp_path / "theirs")
        got = ours(ids())[0]
        torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=1e-5)
        assert (got - plain).abs().max() > 1e-3 or case in UNCHANGED
        ours.save_pretrained(tmp_path / "again")
        again = peft.PeftModel.from_pretrained(reload(base), tmp_path / "again").eval()
        torch.testing.assert_close(again(ids())[0], want, atol=TOLERANCE, rtol=1e-5)
        own = get_peft_model(load(base), LoraConfig(**{**theirs, **other})).eval()
        with torch.no_grad():
            for parameter in own.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        own.save_pretrained(tmp_path / "own")
        read = peft.PeftModel.from_pretrained(reload(base), tmp_path / "own").eval()
        want = own(ids())[0]
        torch.testing.assert_close(read(ids())[0], want, atol=TOLERANCE, rtol=1e-5)
        back = PeftModel.from_pretrained(load(base), tmp_path / "own")
        torch.testing.assert_close(back(ids())[0], want, atol=TOLERANCE, rtol=1e-5)
        torch.testing.assert_close(own.merge_and_unload()(ids())[0], want, atol=TOLERANCE, rtol=1e-4)


def test_gradients_are_pefts(tmp_path):
    theirs = hugging_face("CausalLM", "llama", tmp_path)
    settings = {"r": 4, "target_modules": ["q_proj", "up_proj", "embed_tokens"], "use_dora": True}
    settings |= {"init_lora_weights": False}
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(**settings))
    theirs.save_pretrained(tmp_path / "adapter")
    base = martlet.AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    for model in (theirs, ours):
        model(ids(), labels=ids()).loss.backward()
    wanted = {key: each.grad for key, each in theirs.named_parameters()}
    compared = 0
    for key, parameter in ours.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == ("lora_" in key)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted[key], atol=1e-5, rtol=1e-3)
            compared += 1
    assert compared == 3 * 2 * 3 + 3


def test_adapters_in_the_base_dtype(tmp_path):
    theirs = hugging_face("CausalLM", "llama", tmp_path)
    load = lambda: martlet.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)  # noqa: E731
    narrow = get_peft_model(load(), config(use_dora=True), autocast_adapter_dtype=False)
    narrow.add_adapter("two", config(modules_to_save=["lm_head"]), autocast_adapter_dtype=False)
    learnt = [each for name, each in narrow.named_parameters() if "lora_" in name]
    assert {each.dtype for each in learnt} == {torch.bfloat16} and len(learnt) == 3 * 2 * 5
    wide = get_peft_model(load(), config(use_dora=True))
    assert {each.dtype for name, each in wide.named_parameters() if "lora_" in name} == {torch.float32}
    with torch.no_grad():
        want = wide(ids())[0].float()
        assert (narrow(ids())[0].float() - want).norm() < 2**-5 * want.norm()  # a few of bfloat16's half units
        narrow.save_pretrained(tmp_path / "narrow", selected_adapters=["default"])
        again = PeftModel.from_pretrained(load(), tmp_path / "narrow", autocast_adapter_dtype=False)
        assert torch.equal(again(ids())[0], narrow(ids())[0])
        read = peft.PeftModel.from_pretrained(theirs.bfloat16(), tmp_path / "narrow", autocast_adapter_dtype=False)
        assert (read(ids())[0].float() - want).norm() < 2**-5 * want.norm()


def test_a_card_beside_the_adapter(base, tmp_path):
    model = get_peft_model(base, config())
    model.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"base_model: {base.name_or_path}\nlibrary_name: peft\n" in card and base.name_or_path
    (tmp_path / "out" / "README.md").write_text("my own")
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "my own"


# One base, several adapters


@pytest.fixture
def base(tmp_path):
    hugging_face("CausalLM", "llama", tmp_path / "base")
    return martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def config(**changes):
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **changes})


@pytest.fixture
def two(base):
    model = get_peft_model(base, config(), "one")
    model.add_adapter("two", config(target_modules=["v_proj"], modules_to_save=["lm_head"], use_dora=True))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["two"].weight.mul_(1.5)
    return model.eval()


def test_each_row_has_its_own_adapter(two):
    rows = torch.cat((ids(), ids()))
    mask = torch.ones_like(rows)
    mask[0, 6:] = mask[2, :2] = 0
    names = ["two", "one", "__base__", "two"]
    with torch.no_grad():
        got = two(rows, attention_mask=mask, adapter_names=names).logits
        for row, name in enumerate(names):
            real = mask[row].bool()
            if name == "__base__":
                with two.disable_adapter():
                    want = two(rows[row][real][None]).logits[0]
            else:
                two.set_adapter(name)
                want = two(rows[row][real][None]).logits[0]
            torch.testing.assert_close(got[row][real], want, atol=TOLERANCE, rtol=1e-5)
    assert (got[1] - got[3]).abs().max() > 0.01
    two.set_adapter("one")
    made = two.generate(rows[[1, 3]], adapter_names=["one", "two"], max_new_tokens=5, do_sample=False)
    for row, name in enumerate(("one", "two")):
        two.set_adapter(name)
        alone = two.generate(rows[[1, 3]][row][None], max_new_tokens=5, do_sample=False)[0]
        assert made[row, : len(alone)].tolist() == alone.tolist()


def test_merging_gives_the_base_back_bit_for_bit(two):
    two.set_adapter("one")
    before = {name: weight.clone() for name, weight in two.state_dict().items()}
    with torch.no_grad():
        want = two(ids()).logits
        two.merge_adapter()
        torch.testing.assert_close(two(ids()).logits, want, atol=TOLERANCE, rtol=1e-4)
        changed = two.state_dict()["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
        assert not torch.equal(changed, before["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"])
        with pytest.raises(ArgumentError, match="unmerge_adapter"):
            two.set_adapter("two")
        two.unmerge_adapter()
        assert torch.equal(two(ids()).logits, want)
    assert all(torch.equal(before[name], weight) for name, weight in two.state_dict().items())


def test_unload_is_the_base(base, tmp_path):
    with torch.no_grad():
        want = base(ids()).logits
        model = get_peft_model(base, config())
        assert not torch.equal(model(ids()).logits, want)
        with model.disable_adapter():
            assert torch.equal(model(ids()).logits, want)
        with pytest.raises(ArgumentError, match="Adapters are saved by PeftModel"):
            base.save_pretrained(tmp_path / "saved")
        assert model.unload() is base and torch.equal(base(ids()).logits, want)
    base.save_pretrained(tmp_path / "saved")


def test_adapters_come_and_go(two, tmp_path, capsys):
    assert two.active_adapters == ["one"] and sorted(two.peft_config) == ["one", "two"]
    trainable, every = two.get_nb_trainable_parameters()
    assert trainable == 3 * 4 * (32 + 32 + 48 + 32) and every > trainable
    two.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {trainable:,d} || all params: {every:,d} || ")
    two.save_pretrained(tmp_path)
    assert (tmp_path / "one" / "adapter_config.json").is_file()
    with torch.no_grad():
        two.set_adapter("two")
        want = two(ids()).logits
        two.delete_adapter("two")
        assert two.active_adapters == ["one"]
        two.load_adapter(tmp_path / "two", "three")
        assert not any(each.requires_grad for name, each in two.named_parameters() if "three" in name)
        two.set_adapter("three")
        assert torch.equal(two(ids()).logits, want)
        two.set_adapter(["one", "three"])
        assert not torch.equal(two(ids()).logits, want)


def test_a_folder_of_an_adapter_loads_with_its_base(two, tmp_path):
    two.set_adapter("one")
    two.save_pretrained(tmp_path / "saved", selected_adapters=["one"])
    model = martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "saved" / "one")
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, two(ids()).logits)
    assert model.generate(ids(), max_new_tokens=3, do_sample=False).shape == (2, 12)
    with pytest.raises(UnsupportedError, match="adapter"):
        martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "saved" / "one", backend="native")


def test_a_fresh_adapter_changes_nothing_and_is_the_seeds(base):
    with torch.no_grad():
        want = base(ids()).logits
        made = []
        for _ in range(2):
            martlet.set_seed(3)
            model = get_peft_model(base, LoraConfig(r=4))
            assert torch.equal(model(ids()).logits, want)
            made.append(model.base_model.model.model.layers[1].self_attn.v_proj.lora_A["default"].weight.clone())
            model.unload()
    assert torch.equal(*made) and made[0].abs().max() <= 32**-0.5


def test_adapters_train_and_only_they(base):
    model = get_peft_model(base, config(init_lora_weights=True, lora_dropout=0.1)).train()
    frozen = {name: each.clone() for name, each in model.named_parameters() if not each.requires_grad}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    losses = []
    for _ in range(15):
        loss = model(ids(), labels=ids()).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(dict(model.named_parameters())[name], each) for name, each in frozen.items())


def test_half_precision_keeps_adapters_in_float32(base):
    model = get_peft_model(base.to(torch.bfloat16), config())
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}
    assert model(ids()).logits.dtype == torch.bfloat16


# What is refused


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"r": 0}, ArgumentError, "r: must be a whole number of at least 1"),
        ({"bias": "some"}, ArgumentError, "bias: must be one of none, all, lora_only"),
        ({"init_lora_weights": "eva"}, UnsupportedError, "found 'eva'"),
        ({"target_modules": ["qproj"]}, ArgumentError, "must name some of .*q_proj"),
        ({"modules_to_save": ["lmhead"]}, ArgumentError, "must name modules of the model; found lmhead"),
        ({"task_type": "SEQ"}, ArgumentError, "task_type: must be one of"),
    ],
)
def test_configs_that_cannot_be(base, changes, error, said):
    with pytest.raises(error, match=said):
        get_peft_model(base, config(**changes))


def test_files_that_do_not_fit(two, base, tmp_path):
    from safetensors.torch import load_file, save_file

    two.save_pretrained(tmp_path, selected_adapters=["one"])
    file = tmp_path / "one" / "adapter_model.safetensors"
    saved = load_file(file)
    some = sorted(saved)[0]
    for changed, said in (
        ({key: value for key, value in saved.items() if key != some}, "is missing"),
        (
            saved | {"base_model.model.extra.lora_A.weight": torch.ones(1, 1)},
            "1 tensors that this adapter does not use",
        ),
        (saved | {some: torch.ones(3, 3)}, r"must be of shape \[4, .*found \[3, 3\]"),
    ):
        save_file(changed, file)
        with pytest.raises(WeightsError, match=said):
            two.load_adapter(tmp_path / "one", "again")
        assert "again" not in two.peft_config
    values = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    for key, value, said in (("peft_type", "IA3", "peft_type is LORA"), ("use_qalora", True, "key 'use_qalora'")):
        (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(values | {key: value}))
        with pytest.raises(UnsupportedError, match=said):
            two.load_adapter(tmp_path / "one", "again")
    with pytest.raises(ArgumentError, match="must be one of one, two; found 'three'"):
        two.set_adapter("three")
    with pytest.raises(ArgumentError, match="one for each of 2 rows; found 1"):
        two(ids(), adapter_names=["one"])


# What begins with a part of the weights; tokens of a tied table; adapters out of others


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_8", "olora"])
def test_an_adapter_that_took_a_part_of_the_weights_leaves_the_base_whole(init, base):
    with torch.no_grad():
        plain = base(ids()).logits
        model = get_peft_model(base, config(init_lora_weights=init))
        torch.testing.assert_close(model(ids()).logits, plain, atol=1e-4, rtol=1e-4)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
        changed = model(ids()).logits
        assert (changed - plain).abs().max() > 1e-2
        with model.disable_adapter():
            torch.testing.assert_close(model(ids()).logits, plain, atol=1e-4, rtol=1e-4)
        by_rows = model(ids(), adapter_names=["default", "__base__"]).logits
        torch.testing.assert_close(by_rows, torch.stack((changed[0], plain[1])), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.unload()(ids()).logits, plain, atol=1e-4, rtol=1e-4)


def test_only_the_tokens_of_a_tied_table_learn(tmp_path):
    hugging_face("CausalLM", "gemma2", tmp_path)
    model = get_peft_model(
        martlet.AutoModelForCausalLM.from_pretrained(tmp_path),
        config(target_modules=["q_proj"], trainable_token_indices=[7, 11]),
    )
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    rows = learning["base_model.model.model.embed_tokens.trainable_tokens_delta.default"]
    model(ids(), labels=ids()).loss.backward()
    assert rows.shape[0] == 2
    assert rows.grad.abs().sum(1).min() > 0
    with torch.no_grad():
        rows.add_(0.3)
        want = model.eval()(ids()).logits
        model.merge_adapter()
        torch.testing.assert_close(model(ids()).logits, want, atol=1e-4, rtol=1e-4)
        model.unmerge_adapter()
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids()).logits, want, atol=1e-4, rtol=1e-4)
        assert merged.lm_head.weight is merged.model.embed_tokens.weight


WAYS = {
    "cat": {},
    "svd": {"svd_rank": 4, "svd_clamp": 0.95},
    "linear": {},
    "ties": {"density": 0.4},
    "ties_svd": {"density": 0.4, "majority_sign_method": "frequency"},
    "dare_linear": {"density": 0.6},
    "dare_linear_svd": {"density": 0.6},
    "dare_ties": {"density": 0.6, "majority_sign_method": "frequency"},
    "dare_ties_svd": {"density": 0.6},
    "magnitude_prune": {"density": 0.5},
    "magnitude_prune_svd": {"density": 1.0},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_weighted_adapter_is_pefts(way, tmp_path, monkeypatch):
    """Those that draw do so in PEFT's order."""
    theirs = hugging_face("CausalLM", "llama", tmp_path / "base")
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(**settings), "one").eval()
    theirs.add_adapter("two", peft.LoraConfig(**settings))
    theirs.add_adapter("three", peft.LoraConfig(**settings))
    theirs.save_pretrained(tmp_path / "saved")
    given = (["one", "two", "three"], [0.7, -0.4, 0.5], "both")
    ours = PeftModel.from_pretrained(
        martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "saved" / "one", "one"
    )
    ours.load_adapter(tmp_path / "saved" / "two", "two")
    ours.load_adapter(tmp_path / "saved" / "three", "three")
    seen = []
    for model in (theirs, ours):
        chance = torch.Generator().manual_seed(3)
        monkeypatch.setattr(
            torch, "bernoulli", lambda p, chance=chance: (torch.rand(p.shape, generator=chance) < p) * 1.0
        )
        model.add_weighted_adapter(*given, combination_type=way, **WAYS[way])
        model.set_adapter("both")
        with torch.no_grad():
            seen.append(model(ids())[0])
    torch.testing.assert_close(seen[1], seen[0], atol=1e-4, rtol=1e-4)


def test_what_a_weighted_adapter_needs(base):
    model = get_peft_model(base, config(r=2, target_modules=["q_proj"]))
    model.add_adapter("wide", config(r=4, target_modules=["q_proj"]))
    both = (["default", "wide"], [1.0, 1.0], "both")
    for words, complaint in (
        ({"combination_type": "mean"}, "combination_type"),
        ({"combination_type": "dare_ties_svd"}, "density"),
        ({"combination_type": "ties_svd", "density": 1.5}, "density"),
        ({"combination_type": "ties_svd", "density": 0.5, "majority_sign_method": "most"}, "majority_sign_method"),
        ({"combination_type": "ties", "density": 0.5}, "one rank.*ties_svd"),
        ({"combination_type": "linear"}, "one rank.*svd"),
    ):
        with pytest.raises(ArgumentError, match=complaint):
            model.add_weighted_adapter(*both, **words)
    assert list(model.peft_config) == ["default", "wide"]


def test_tensors_of_an_adapter_by_pefts_names(base, tmp_path):
    from martlet.training import (
        AutoPeftModel,
        AutoPeftModelForCausalLM,
        AutoPeftModelForSequenceClassification,
        PeftConfig,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    model = get_peft_model(base, config(task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    state = get_peft_model_state_dict(model)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    wanted = peft.get_peft_model_state_dict(theirs)
    assert state.keys() == wanted.keys() == load_peft_weights(tmp_path / "adapter").keys()
    assert all(torch.equal(state[key], wanted[key]) for key in state)
    with torch.no_grad():
        want = model(ids()).logits
        fresh = get_peft_model(martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config())
        set_peft_model_state_dict(fresh, wanted)
        assert torch.equal(fresh(ids()).logits, want)
        opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
        assert torch.equal(opened(ids()).logits, want)
    assert PeftConfig.from_pretrained(tmp_path / "adapter").r == 4
    with pytest.raises(WeightsError, match="missing"):
        set_peft_model_state_dict(fresh, {})
    with torch.no_grad():
        assert torch.equal(AutoPeftModel.from_pretrained(tmp_path / "adapter")(ids()).logits, want)
    with pytest.raises(ArgumentError, match="CAUSAL_LM"):
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")


def test_what_learns_in_float32(base):
    from martlet.training import cast_mixed_precision_params

    model = get_peft_model(base, config())
    cast_mixed_precision_params(model, torch.bfloat16)
    assert {(each.requires_grad, each.dtype) for each in model.parameters()} == {
        (True, torch.float32), (False, torch.bfloat16),
    }  # fmt: skip


def test_a_config_that_says_only_what_is_adapted(base, tmp_path):
    """What PEFT asks for at the least."""
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    read = LoraConfig.from_pretrained(tmp_path)
    assert (read.r, read.lora_alpha) == (8, 8)


def test_every_field_of_pefts_config_is_ours_or_refused_by_name():
    """None is ignored: a field works, says nothing, or is an error that names it."""
    import dataclasses

    from martlet.adapters.config import IDLE, REFUSED

    ours = {each.name for each in dataclasses.fields(LoraConfig)}
    for each in dataclasses.fields(peft.LoraConfig):
        assert (each.name in ours) + (each.name in IDLE - ours) + (each.name in REFUSED) == 1, each.name
        if each.name in REFUSED:
            LoraConfig(**{each.name: None})
            with pytest.raises(UnsupportedError, match=each.name):
                LoraConfig(**{each.name: True})
    with pytest.raises(ArgumentError, match="Is lora_alpha meant"):
        LoraConfig(lora_alfa=3)
