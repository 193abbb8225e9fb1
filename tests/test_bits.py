"""What bitsandbytes is asked for, answered by martlet's own packing."""

import logging

import pytest
import torch
import transformers

import martlet
from martlet import bits
from martlet.errors import ArgumentError, UnsupportedError

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(path)
    return path


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("width", ["8", "4"])
def test_as_quantize(folder, backend, width, caplog, monkeypatch):
    monkeypatch.setattr(bits, "_said", set())
    asked = martlet.BitsAndBytesConfig(**{f"load_in_{width}bit": True}, bnb_4bit_compute_dtype=torch.bfloat16)
    theirs = transformers.BitsAndBytesConfig(**{f"load_in_{width}bit": True})
    ids, answers = torch.tensor([[1, 2, 3]]), []
    with caplog.at_level(logging.WARNING, "martlet"):
        for given in (
            {"quantize": f"int{width}"},
            {"quantization_config": asked},
            {"quantization_config": asked.to_dict()},
            {"quantization_config": theirs},
        ):
            model = martlet.AutoModelForCausalLM.from_pretrained(folder, backend=backend, **given)
            answers.append(model.generate(ids, max_new_tokens=5, do_sample=False).tolist())
    assert answers[1:] == answers[:1] * 3
    said = [record.message for record in caplog.records if "bitsandbytes keeps its own types" in record.message]
    assert len(said) == 1 and f"quantize='int{width}'" in said[0]


def test_what_asks_for_nothing(folder):
    for given in (None, martlet.BitsAndBytesConfig(), {}):
        model = martlet.AutoModelForCausalLM.from_pretrained(folder, quantization_config=given)
        assert model.lm_head.weight.dtype == torch.float32


def test_refused(folder):
    with pytest.raises(ArgumentError, match="exclude each other"):
        martlet.BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)
    with pytest.raises(ArgumentError, match="'load_in_2bit'"):
        martlet.BitsAndBytesConfig(load_in_2bit=True)
    with pytest.raises(UnsupportedError, match="llm_int8_skip_modules"):
        martlet.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    for given, kind, said in (
        ({"quant_method": "gptq", "bits": 4}, UnsupportedError, "not packed as gptq does"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}, UnsupportedError, "llm_int8_skip_modules"),
        ("int8", ArgumentError, "must be a BitsAndBytesConfig"),
    ):
        with pytest.raises(kind, match=said):
            martlet.AutoModelForCausalLM.from_pretrained(folder, quantization_config=given)
    both = {"quantize": "int4", "quantization_config": martlet.BitsAndBytesConfig(load_in_8bit=True)}
    with pytest.raises(ArgumentError, match="quantization_config asks for int8"):
        martlet.AutoModelForCausalLM.from_pretrained(folder, **both)
