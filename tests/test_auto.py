"""`AutoConfig`, `AutoModel`, `AutoModelForCausalLM`: every keyword people pass, and what is refused."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import transformers

import martlet
from martlet import auto_named
from martlet.errors import (
    ArgumentError,
    ConfigError,
    DeviceError,
    HubError,
    UnknownFamilyError,
    UnsupportedError,
    WeightsError,
)
from martlet.formats.safetensors import SafetensorsFile, save_safetensors

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
IDS = torch.arange(3, 15)[None]
load = martlet.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).bfloat16().save_pretrained(path)
    return path


def edit(folder, tmp_path, **changes):
    """A copy of the folder with some keys of its config.json changed."""
    copy = tmp_path / "edited"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    return copy


@pytest.mark.parametrize(
    ("keywords", "want"),
    [
        ({}, torch.bfloat16),
        ({"torch_dtype": "auto"}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"dtype": torch.float32, "torch_dtype": torch.float32}, torch.float32),
    ],
)
def test_dtypes(folder, keywords, want):
    model = load(folder, **keywords)
    assert model.dtype is want and {p.dtype for p in model.parameters()} == {want}


def test_auto_without_a_word_in_the_config_is_what_is_stored(folder, tmp_path):
    assert load(edit(folder, tmp_path, dtype=None, torch_dtype=None)).dtype is torch.bfloat16


@pytest.mark.parametrize("keywords", [{"dtype": "int8"}, {"dtype": "float17"}, {"torch_dtype": torch.int64}])
def test_a_dtype_that_is_none(folder, keywords):
    with pytest.raises(ArgumentError, match="must be 'auto' or one of"):
        load(folder, **keywords)


def test_two_dtypes(folder):
    with pytest.raises(ArgumentError, match="old name"):
        load(folder, dtype="float32", torch_dtype="bfloat16")


@pytest.mark.parametrize(
    "device_map",
    [None, "cpu", "auto", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}],
)
def test_device_maps_that_lead_to_the_cpu(folder, device_map):
    if device_map == "auto" and torch.cuda.is_available():
        pytest.skip("auto is the GPU here")
    model = load(folder, device_map=device_map, dtype="float32")
    assert {str(p.device) for p in model.parameters()} == {"cpu"}
    assert torch.equal(model(IDS).logits, load(folder, dtype="float32")(IDS).logits)


def test_a_device_map_by_layer_may_leave_parts_on_meta(folder):
    model = load(folder, device_map={"": "cpu", "model.layers.1": "meta"})
    assert {name for name, p in model.named_parameters() if p.is_meta} == {
        name for name, _ in model.named_parameters() if name.startswith("model.layers.1.")
    }


def test_meta_has_shapes_and_no_memory(folder):
    model = load(folder, device_map="meta")
    assert all(p.is_meta for p in model.parameters())
    assert model.num_parameters() == load(folder).num_parameters()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0, {"": "cuda"}])
def test_a_device_that_is_not_there_is_an_error_that_names_what_is(folder, device):
    with pytest.raises(DeviceError, match=r"must be on this machine; found 'cuda.*There is: cpu"):
        load(folder, device_map=device)


@pytest.mark.parametrize(
    ("device_map", "says"),
    [
        ("gpu", "must be a name such as cpu"),
        ({"model": "cpu"}, "lm_head must be covered by a key; found keys model"),
        ({"": "cpu", "modle": "cpu"}, "every key must be a module's name or prefix; found 'modle'"),
    ],
)
def test_device_maps_that_say_nothing(folder, device_map, says):
    with pytest.raises((DeviceError, ArgumentError), match=says):
        load(folder, device_map=device_map)


def test_keywords_that_ask_for_what_always_happens(folder):
    want = load(folder)(IDS).logits
    model = load(
        folder, low_cpu_mem_usage=True, attn_implementation="sdpa", trust_remote_code=True, resume_download=True
    )
    assert torch.equal(model(IDS).logits, want)
    model, info = load(folder, output_loading_info=True)
    assert torch.equal(model(IDS).logits, want)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}


@pytest.mark.parametrize(
    ("keywords", "error", "says"),
    [
        ({"load_in_8bit": True}, UnsupportedError, "load_in_8bit is not supported. Pass quantize="),
        ({"ignore_mismatched_sizes": True}, UnsupportedError, "made up"),
        ({"attn_implementation": "fast"}, ArgumentError, "must be one of eager"),
        ({"devise_map": "cpu"}, ArgumentError, r"'devise_map' is neither a keyword.*Is 'device_map' meant\?"),
        ({"num_hiden_layers": 1}, ArgumentError, r"Is 'num_hidden_layers' meant\?"),
        ({"use_safetensors": False}, HubError, r"must hold one of pytorch_model\.bin"),
        ({"hidden_size": 64}, WeightsError, r"of shape \[96, 64\]; found a tensor of shape \[96, 32\]"),
        ({"num_hidden_layers": 3}, WeightsError, r"9 of 30 tensors missing: model\.layers\.2"),
        ({"num_hidden_layers": 1}, WeightsError, r"9 tensors that this architecture does not use: model\.layers\.1"),
        ({"hidden_act": "swish2"}, ConfigError, "hidden_act"),
    ],
)
def test_keywords_that_are_refused(folder, keywords, error, says):
    with pytest.raises(error, match=says):
        load(folder, **keywords)


def test_keywords_override_keys_of_the_config(folder):
    model = load(folder, rope_theta=500.0, use_cache=False, dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, dtype=torch.float32
    )
    assert model.config.use_cache is False
    torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=1e-4)


def test_outputs_asked_for_in_the_config(folder):
    model = load(folder, output_hidden_states=True, output_attentions=True)
    assert len(model(IDS).hidden_states) == 3 and len(model(IDS).attentions) == 2
    assert model(IDS, output_hidden_states=False).hidden_states is None
    logits, *_ = load(folder, return_dict=False)(IDS)
    assert torch.equal(logits, load(folder)(IDS).logits)


def test_a_config_given_whole(folder, tmp_path):
    config = martlet.AutoConfig.from_pretrained(folder)
    config.rope_theta = 500.0
    want = load(folder, rope_theta=500.0)(IDS).logits
    assert torch.equal(load(folder, config=config)(IDS).logits, want)
    assert torch.equal(load(folder, config=config.to_dict())(IDS).logits, want)
    theirs = transformers.AutoConfig.from_pretrained(folder)
    assert torch.equal(load(folder, config=theirs)(IDS).logits, load(folder)(IDS).logits)


def test_from_config(folder):
    config = martlet.AutoConfig.from_pretrained(folder)
    martlet.set_seed(1)
    first = martlet.AutoModelForCausalLM.from_config(config)
    martlet.set_seed(1)
    again = martlet.AutoModelForCausalLM.from_config(config, dtype="float32", attn_implementation="eager")
    assert first.dtype is torch.bfloat16 and again.dtype is torch.float32
    martlet.set_seed(1)
    same = martlet.AutoModelForCausalLM.from_config(config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, first.model.embed_tokens.weight)
    assert 0.015 < float(again.lm_head.weight.detach().std()) < 0.025
    base = martlet.AutoModel.from_config(config, num_hidden_layers=1)
    assert base(IDS).last_hidden_state.shape == (1, 12, 32)


def test_for_model_has_the_familys_defaults():
    config = martlet.AutoConfig.for_model("qwen2", **SIZES)
    theirs = transformers.AutoConfig.for_model("qwen2", **SIZES)
    assert config.arch.norm_eps == theirs.rms_norm_eps and config.arch.qkv_bias
    assert martlet.AutoConfig.for_model("qwen2").num_attention_heads == 32


def test_remote_code_is_never_run(folder, tmp_path, caplog):
    named = edit(folder, tmp_path, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (named / "modeling_evil.py").write_text("raise SystemExit('this code was run')")
    with caplog.at_level(logging.INFO, logger="martlet"):
        for _ in range(3):
            load(named, trust_remote_code=True)
    said = [record.message for record in caplog.records if "runs none of it" in record.message]
    assert len(said) == 1


def test_an_unknown_family_says_what_is_there(folder, tmp_path):
    other = edit(folder, tmp_path, model_type="qwen9", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (other / "modeling_evil.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(UnknownFamilyError) as caught:
        load(other, trust_remote_code=True)
    text = str(caught.value)
    assert "qwen9" in text and "qwen2" in text and "llama" in text and "none of it was run" in text


def test_weights_stay_in_the_files_map(folder):
    """What is stored as it is used costs no memory of its own."""
    source = SafetensorsFile(folder / "model.safetensors")
    model = load(folder)
    raw = source.raw("model.norm.weight")
    assert np.array_equal(model.model.norm.weight.detach().view(torch.uint8).numpy().ravel(), raw)
    with open("/proc/self/maps") as maps:
        spans = [line.split() for line in maps if line.rstrip().endswith(str(folder / "model.safetensors"))]
    ranges = [tuple(int(x, 16) for x in span[0].split("-")) for span in spans]
    address = model.model.layers[0].mlp.up_proj.weight.data_ptr()
    assert any(start <= address < end for start, end in ranges)


def test_training_a_mapped_model_leaves_its_file_alone(folder, tmp_path):
    copy = edit(folder, tmp_path)
    before = (copy / "model.safetensors").read_bytes()
    model = load(copy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (copy / "model.safetensors").read_bytes() == before


def test_saving_a_model_over_the_files_it_is_mapped_from(folder, tmp_path):
    copy = edit(folder, tmp_path)
    model = load(copy)
    want = model(IDS).logits
    model.save_pretrained(copy)
    assert torch.equal(load(copy)(IDS).logits, want)
    assert torch.equal(model(IDS).logits, want)


def test_shards_and_state_dicts(folder, tmp_path):
    model = load(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert torch.equal(load(tmp_path / "shards")(IDS).logits, model(IDS).logits)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    assert all(torch.equal(theirs.state_dict()[name], value) for name, value in model.state_dict().items())
    doubled = {name: value * 2 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "doubled", state_dict=doubled)
    assert torch.equal(load(tmp_path / "doubled").lm_head.weight, model.lm_head.weight * 2)
    with pytest.raises(ArgumentError, match="must be a number of bytes"):
        model.save_pretrained(tmp_path / "x", max_shard_size="5 bananas")
    with pytest.raises(ArgumentError, match="pickles are read, never written"):
        model.save_pretrained(tmp_path / "x", safe_serialization=False)


def test_a_tied_head_that_the_file_holds_or_not(tmp_path):
    torch.manual_seed(0)
    tied = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path / "tied")
    model = load(tmp_path / "tied")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(model(IDS).logits, tied(IDS).logits, atol=1e-5, rtol=1e-4)
    # an untied config over the same file: the head is missing, and nobody makes one up
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        load(tmp_path / "tied", tie_word_embeddings=False)


def test_pytorch_bins(folder, tmp_path):
    copy = edit(folder, tmp_path)
    want = load(copy)(IDS).logits
    with SafetensorsFile(copy / "model.safetensors") as source:
        weights = {
            name: torch.frombuffer(bytearray(source.raw(name)), dtype=torch.bfloat16).reshape(source.info(name).shape)
            for name in source.names()
        }
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    assert torch.equal(load(copy)(IDS).logits, want)


def test_a_tensor_too_many_and_one_misshapen(folder, tmp_path):
    copy = edit(folder, tmp_path)
    with SafetensorsFile(copy / "model.safetensors") as source:
        stored = {n: (source.info(n).dtype, source.info(n).shape, bytes(source.raw(n))) for n in source.names()}
    save_safetensors(copy / "model.safetensors", {**stored, "model.extra.weight": ("BF16", (2,), b"\0" * 4)})
    with pytest.raises(WeightsError, match=r"model\.extra\.weight"):
        load(copy)
    kind, shape, data = stored["model.norm.weight"]
    assert shape == (32,)
    save_safetensors(copy / "model.safetensors", {**stored, "model.norm.weight": (kind, (16,), data[:32])})
    with pytest.raises(WeightsError, match=r"model\.norm\.weight.*\[32\].*\[16\]"):
        load(copy)
    del stored["model.norm.weight"]
    save_safetensors(copy / "model.safetensors", stored)
    with pytest.raises(WeightsError, match=r"1 of 21 tensors missing: model\.norm\.weight"):
        load(copy)


def test_moving_and_casting_as_any_module(folder):
    model = load(folder).float()
    assert model.dtype is torch.float32
    assert model.to(torch.bfloat16).half().dtype is torch.float16
    assert model.device.type == "cpu"


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_model_from_gguf_and_from_a_folder(smollm2_gguf, smollm2_folder):
    from_gguf, from_folder = load(smollm2_gguf), load(smollm2_folder, device_map="cpu", torch_dtype="auto")
    assert torch.equal(from_gguf(IDS).logits, from_folder(IDS).logits)
    by_name = load(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    assert torch.equal(by_name(IDS).logits, from_gguf(IDS).logits)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2_folder)
    tokenizer = martlet.AutoTokenizer.from_pretrained(smollm2_folder)
    text = "The martlet is a bird without feet that never lands. In heraldry it stands for"
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(from_folder(ids).logits, theirs(ids).logits, atol=2e-3, rtol=1e-3)
        want = theirs.generate(ids, max_new_tokens=40, do_sample=False)
    assert torch.equal(from_folder.generate(ids, max_new_tokens=40, do_sample=False), want)


@pytest.mark.parametrize("name", sorted(set(auto_named.names()) & set(dir(transformers))))
def test_names_of_families_are_there(name):
    found = getattr(martlet, name)
    assert callable(found.from_pretrained)
    if name.endswith("Config"):
        assert found.model_type == getattr(transformers, name).model_type


def test_a_family_by_its_name(tmp_path):
    config = martlet.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                 num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    assert isinstance(config, martlet.LlamaConfig) and not isinstance(config, martlet.Qwen2Config)
    model = martlet.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    again = martlet.LlamaForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert torch.equal(again(torch.tensor([[1, 2]])).logits, model(torch.tensor([[1, 2]])).logits)
    assert isinstance(again, martlet.LlamaForCausalLM) and not isinstance(again, martlet.MistralForCausalLM)
    assert not isinstance(again, martlet.LlamaForSequenceClassification) and not isinstance(3, martlet.LlamaModel)
    reference = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(torch.tensor([[1, 2]])).logits, reference(torch.tensor([[1, 2]])).logits)
    classifier = martlet.LlamaForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert isinstance(classifier, martlet.LlamaForSequenceClassification) and classifier.config.num_labels == 3
    with pytest.raises(
        ArgumentError, match=r"GPT2LMHeadModel: is for the family 'gpt2'; found a checkpoint of 'llama'"
    ):
        martlet.GPT2LMHeadModel.from_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"Qwen2Config: is for the family 'qwen2'"):
        martlet.Qwen2Config.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name", ["T5ForConditionalGeneration", "BloomModel", "LlamaForMaskedLM", "Gemma3Config", "model"]
)
def test_names_of_what_is_not_there(name):
    assert not hasattr(martlet, name)
