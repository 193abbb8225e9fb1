"""Adapters on modules of one's own and on other libraries' models, beside PEFT's on the same: outputs, files, names."""

import pytest
import torch
from torch import nn

from martlet.errors import ArgumentError, UnsupportedError
from martlet.training import LoraConfig, LoraModel, PeftModel, get_peft_model

peft = pytest.importorskip("peft")

# of peft itself, on the newest transformers
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
BOTH = ((peft.get_peft_model, peft.LoraConfig), (get_peft_model, LoraConfig))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.first = nn.Linear(8, 10)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
        self.conv = nn.Conv1d(5, 2, 1)

    def forward(self, ids):
        return self.head(self.norm(self.first(self.table(ids))).relu()) + self.conv(self.table(ids))[..., :1].sum(
            1, True
        )


def net():
    torch.manual_seed(0)
    return Net().eval()


def ids():
    return torch.arange(10).view(2, 5)


CASES = {
    "linear": {"target_modules": ["first", "head.2"], "bias": "lora_only"},
    "regex": {"target_modules": r"head\.\d", "exclude_modules": r"head\.1"},
    "dora": {"target_modules": ["table", "first"], "use_dora": True, "use_rslora": True},
    "patterns": {
        "target_modules": ["first", "head.0"], "rank_pattern": {"first": 2}, "alpha_pattern": {"head.0": 3},
    },
    "whole": {"target_modules": ["first"], "modules_to_save": ["head", "norm"]},
    "tokens": {"target_modules": ["first"], "trainable_token_indices": {"table": [3, 7]}},
    "all-bias": {"target_modules": ["first"], "bias": "all"},
    "embedding": {"target_modules": ["table"], "init_lora_weights": False},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_files_names_and_outputs_are_pefts(case, tmp_path):
    settings = {"r": 4, "lora_alpha": 6, **CASES[case]}
    theirs, ours = (make(net(), config(**settings)).eval() for make, config in BOTH)
    shapes = [
        {name: each.shape for name, each in model.named_parameters() if each.requires_grad} for model in (theirs, ours)
    ]
    if case not in (
        "tokens",
        "all-bias",
    ):  # there PEFT has another level of modules; shares the bias of a wrapped layer
        assert shapes[0] == shapes[1]
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        want = theirs(ids())
        theirs.save_pretrained(tmp_path / "theirs")
        read = PeftModel.from_pretrained(net(), tmp_path / "theirs").eval()
        torch.testing.assert_close(read(ids()), want, atol=1e-6, rtol=1e-5)
        assert (want - net()(ids())).abs().max() > 1e-3
        read.save_pretrained(tmp_path / "ours")
        again = peft.PeftModel.from_pretrained(net(), tmp_path / "ours").eval()
        torch.testing.assert_close(again(ids()), want, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(read.merge_and_unload()(ids()), want, atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_have_their_own_adapters():
    model = get_peft_model(net(), LoraConfig(r=2, target_modules=["first", "table"], init_lora_weights=False), "one")
    model.add_adapter("two", LoraConfig(r=2, target_modules=["head.0"], init_lora_weights=False))
    model.eval()
    rows = torch.arange(12).repeat(2)[:15].view(3, 5)
    with torch.no_grad():
        mixed = model(rows, adapter_names=["two", "__base__", "one"])
        for row, name in enumerate(("two", None, "one")):
            if name is None:
                with model.disable_adapter():
                    want = model(rows)[row]
            else:
                model.set_adapter(name)
                want = model(rows)[row]
            torch.testing.assert_close(mixed[row], want)


def test_only_adapters_learn_and_a_tuner_alone_does_too():
    inner = net()
    model = LoraModel(inner, LoraConfig(r=2, target_modules=["first"], lora_dropout=0.1), "default")
    assert model.model is inner and model.model.first.lora_A["default"].weight.shape == (2, 8)
    model.train()
    model(ids()).sum().backward()
    learnt = {name for name, each in model.named_parameters() if each.grad is not None}
    assert learnt == {"model.first.lora_A.default.weight", "model.first.lora_B.default.weight"}


def test_a_model_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, max_position_embeddings=32)  # fmt: skip
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path / "base")
    load = transformers.LlamaForCausalLM.from_pretrained
    theirs, ours = (
        make(load(tmp_path / "base"), config(r=3, target_modules="all-linear", init_lora_weights=False)).eval()
        for make, config in BOTH
    )
    theirs.save_pretrained(tmp_path / "adapter")
    ours.load_adapter(tmp_path / "adapter", "theirs")
    ours.set_adapter("theirs")
    with torch.no_grad():
        torch.testing.assert_close(ours(ids()).logits, theirs(ids()).logits)
    made = ours.generate(ids(), max_new_tokens=4, do_sample=False, adapter_names=["theirs", "__base__"])
    assert made[:1].tolist() == theirs.generate(ids()[:1], max_new_tokens=4, do_sample=False).tolist()


def test_merged_one_after_another():
    model = get_peft_model(net(), LoraConfig(r=2, target_modules=["first"], init_lora_weights=False), "one")
    model.add_adapter("two", LoraConfig(r=2, target_modules=["first", "head.0"], init_lora_weights=False))
    with torch.no_grad():
        plain = model.base_model.model.first.base_layer.weight.clone()
        model.set_adapter(["one", "two"])
        want = model(ids())
        model.merge_adapter(["one"])
        model.merge_adapter(["two"])
        torch.testing.assert_close(model(ids()), want, atol=1e-6, rtol=1e-5)
        model.unmerge_adapter()
    assert torch.equal(model.base_model.model.first.base_layer.weight, plain)


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8)


def test_what_is_refused():
    for module, name, said in (
        (net(), "conv", "linear layers and embeddings.*conv is a Conv1d"),
        (Attends(), "attention.out_proj", "MultiheadAttention.*without calling"),
        (Attends(), "layer.linear1", "TransformerEncoderLayer.*without calling"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            get_peft_model(module, LoraConfig(target_modules=[name]))
    with pytest.raises(ArgumentError, match="must name some of"):
        get_peft_model(net(), LoraConfig())
    with pytest.raises(UnsupportedError, match="modules that are called"):
        get_peft_model(
            nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleList([nn.Linear(2, 2)])}),
            LoraConfig(target_modules=["a"], modules_to_save=["b"]),
        )
