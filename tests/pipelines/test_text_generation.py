"""`pipeline("text-generation")` against Hugging Face's: inputs, keywords, answers; and what ours does besides."""

import itertools
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import martlet
from martlet.errors import ArgumentError, ChatTemplateError, EmptyPromptError, PromptTooLongError, UnsupportedError
from martlet.pipelines import KeyDataset, ReturnType

REPOSITORY = Path(__file__).parents[2]
PROMPT = "The martlet is"
PROMPTS = ["The martlet is a bird", "Once", "What is the capital of France? Paris. Und", "ß"]
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
PREFILL = [*CHAT, {"role": "assistant", "content": "It is"}]
TALK = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "assistant", "content": "Paris."}, *CHAT]
GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.pipeline("text-generation", str(folder), device="cpu")


@pytest.fixture(scope="module")
def ours(folder):
    return martlet.pipeline("text-generation", str(folder), device="cpu")


@pytest.mark.parametrize("inputs", [PROMPT, PROMPTS, PROMPTS[:1], CHAT, PREFILL, TALK, [CHAT, PREFILL, TALK], ""])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True},
        {"return_text": True},
        {"return_tensors": True},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 3, "return_tensors": True, "max_new_tokens": 40},
        {"stop_sequence": "e"},
        {"stop_strings": ["e", " a"], "return_full_text": False},
        {"add_special_tokens": False},
        {"prefix": "Once. "},
        {"skip_special_tokens": False, "clean_up_tokenization_spaces": True},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "max_new_tokens": 30},
        {"generation_config": {"max_new_tokens": 7, "suppress_tokens": [40, 41]}},
    ],
    ids=lambda keywords: "-".join(keywords) or "plain",
)
def test_answers_are_hugging_faces(theirs, ours, inputs, keywords):
    keywords = {**GREEDY, **keywords}
    if "generation_config" in keywords:
        keywords["generation_config"] = transformers.GenerationConfig(**keywords["generation_config"], do_sample=False)
        del keywords["max_new_tokens"], keywords["do_sample"]
    elif "stop_strings" in keywords:  # which theirs takes by its older name alone
        assert ours(inputs, **keywords) == theirs(inputs, stop_sequence=keywords.pop("stop_strings"), **keywords)
        return
    assert ours(inputs, **keywords) == theirs(inputs, **keywords)
