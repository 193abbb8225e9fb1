"""`backend="native"`: what it gives, what it refuses, and that no torch is loaded on its way."""

import copy
import json
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import transformers

import martlet
from martlet import engine
from martlet.engine import begin_packing
from martlet.errors import ArgumentError, DeviceError, GenerationError, UnsupportedError
from martlet.inference import open_for_engine

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 600,
}
load = martlet.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    return path


def test_generates_as_the_torch_backend_does(folder):
    native, plain = load(folder, backend="native"), load(folder, backend="torch")
    prompts = [[3, 5, 7, 9], [11] * 20, [40, 41]]
    keywords = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert native.generate(prompts, **keywords) == plain.generate(prompts, **keywords)
    ids = torch.tensor([[3, 5, 7, 9]])
    assert torch.equal(native.generate(ids, **keywords), plain.generate(ids, **keywords))
    beams = {**keywords, "num_beams": 3}
    assert native.generate(prompts, **beams) == plain.generate(prompts, **beams)
    sampled = {**keywords, "do_sample": True, "seed": 7, "num_return_sequences": 2, "top_k": 3}
    assert native.generate(prompts, **sampled) == native.generate(prompts, **sampled)


def test_a_prompt_of_many_pages_and_passes(folder):
    model = load(folder, backend="native")
    prompt = np.random.default_rng(0).integers(0, 96, 590).tolist()
    whole, cut = model.open_session(), model.open_session()
    row, other = whole.add(), cut.add()
    want = whole.step([(row, prompt)]).logits
    for begin in range(0, 590, 37):
        got = cut.step([(other, prompt[begin : begin + 37])]).logits
    assert np.array_equal(got, want)
    whole.release(row)
    assert cut.cache_bytes == 37 * 2 * 2 * 2 * 16 * 16 * 4  # pages, layers, heads, k and v, positions, width, bytes
    plain = load(folder, backend="torch").open_session()
    reference = plain.step([(plain.add(), prompt)]).logits
    assert np.abs(want - reference).max() < 2e-4 * np.abs(reference).max()


@pytest.mark.parametrize(("quantize", "bound"), [("int8", 0.02), ("int4", 0.25)])
def test_quantized_at_loading(folder, quantize, bound):
    model = load(folder, backend="native", quantize=quantize)
    assert model.engine.kinds["model.layers.0.mlp.up_proj.weight"] == {"int8": "Q8_0", "int4": "Q4_0"}[quantize]
    session, plain = model.open_session(), load(folder, backend="torch").open_session()
    got = session.step([(session.add(), [3, 5, 7, 9])]).logits
    want = plain.step([(plain.add(), [3, 5, 7, 9])]).logits
    assert 0 < np.abs(got - want).mean() < bound * np.abs(want).mean() * 2


@pytest.mark.parametrize(
    ("keywords", "error", "says"),
    [
        ({"dtype": "bfloat16"}, ArgumentError, "or what is stored, F32: weights stay so"),
        ({"device_map": "cuda"}, DeviceError, "runs on the CPU; found cuda"),
        ({"quantize": "int3"}, ArgumentError, "must be one of int8, int4"),
        ({"num_threads": 0}, ArgumentError, "must be 1 to .*; found 0"),
        ({"isa": "mmx"}, ArgumentError, "must be one of .*scalar.*; found mmx"),
        ({"quantise": "int8"}, ArgumentError, "neither a keyword nor a key"),
        ({"backend": "gpu"}, ArgumentError, "must be one of torch, native"),
    ],
)
def test_what_is_refused(folder, keywords, error, says):
    with pytest.raises(error, match=says):
        load(folder, **{"backend": "native", **keywords})


def test_what_the_engine_does_not_keep(folder):
    with pytest.raises(UnsupportedError, match="hidden states and attentions are not kept"):
        load(folder, backend="native").generate(
            [[3, 4]], max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True
        )


def test_a_step_that_is_refused_changes_nothing(folder):
    session = load(folder, backend="native").open_session()
    row = session.add()
    session.step([(row, [3, 4, 5])])
    with pytest.raises(GenerationError, match="token 96 is outside the vocabulary"):
        session.step([(row, [6, 96])])
    assert session.length(row) == 3
    other = session.add()
    session.step([(other, [3, 4, 5])])
    assert np.array_equal(session.step([(row, [6])]).logits, session.step([(other, [6])]).logits)


def test_threads_sleep_and_forks_work(folder):
    code = """if True:
        import os, sys, time, martlet
        model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native", num_threads=3)
        session = model.open_session()
        row = session.add()
        before = session.step([(row, [3, 4, 5])]).logits
        used = time.process_time()
        time.sleep(1)
        assert time.process_time() - used < 0.2, "threads that wait must sleep"
        child = os.fork()
        if child == 0:
            session.truncate(row, 0)
            os._exit(0 if (session.step([(row, [3, 4, 5])]).logits == before).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=300)


def test_no_torch_on_the_way(folder):
    code = """if True:
        import json, sys, martlet
        model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1], backend="native")
        ids = model.generate([[3, 4, 5]], max_new_tokens=4, do_sample=False, eos_token_id=None)
        print(json.dumps([ids, "torch" in sys.modules, "transformers" in sys.modules]))
    """
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    ids, has_torch, has_transformers = json.loads(done.stdout)
    assert len(ids[0]) == 7 and not has_torch and not has_transformers


@pytest.mark.slow
@pytest.mark.downloads
def test_the_real_model(smollm2_gguf):
    model = load(smollm2_gguf, backend="native")
    assert model.engine.kinds["model.layers.0.mlp.up_proj.weight"] == "Q4_1" and model.engine.kinds["lm_head.weight"]
    pipe = martlet.pipeline("text-generation", model=str(smollm2_gguf), model_kwargs={"backend": "native"})
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    answer = pipe(chat, max_new_tokens=20, do_sample=False)[0]["generated_text"][-1]["content"]
    assert answer == "The capital of France is Paris."


def test_what_is_done_beside_the_packing_can_end_it(folder):
    begun, seen = threading.Event(), []

    def fail():
        begun.set()
        raise KeyError("said")

    with pytest.raises(KeyError, match="said"):
        martlet.auto.load_for_generation(folder, meanwhile=fail)
    assert begun.is_set()
    model = martlet.auto.load_for_generation(folder, meanwhile=lambda: seen.append(1))
    keywords = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert seen == [1] and model.generates_on == "native"
    assert model.generate([[3, 5, 7]], **keywords) == load(folder, backend="native").generate([[3, 5, 7]], **keywords)
    assert martlet.auto.load_for_generation(folder, backend="torch", meanwhile=lambda: seen.append(2)) and seen == [
        1,
        2,
    ]
    prepared = open_for_engine(folder, {})
    packing = begin_packing(prepared.checkpoint.arch, prepared.source, prepared.pieces)
    del packing  # nobody waits for it any more, and its threads end


def test_what_only_a_torch_module_does_is_said(folder):
    model = martlet.AutoModelForCausalLM.from_pretrained(folder, backend="native")
    for call in (lambda: model([[1]]), lambda: model.save_pretrained("nowhere")):
        with pytest.raises(UnsupportedError, match="backend='torch'"):
            call()
    with pytest.raises(AttributeError, match="has no 'num_parameters': load it with backend='torch'"):
        model.num_parameters()
    assert getattr(model, "no_such", 5) == 5
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UnsupportedError, match="neither pickled nor copied deeply"):
            copied(model)
    assert copy.copy(model).generate([[3, 5]], max_new_tokens=2) == model.generate([[3, 5]], max_new_tokens=2)
