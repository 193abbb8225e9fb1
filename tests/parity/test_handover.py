"""A torch model that generates on the engine: the same as the engine alone, with the weights it has at the moment."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import transformers
from tiny_models import SMALL

import martlet
from martlet import engine
from martlet.checkpoint import open_checkpoint
from martlet.cli.facts import model_facts
from martlet.engine.reasons import ASKED, say_why
from martlet.errors import ArgumentError, GenerationError, UnsupportedError
from martlet.handover import Handover

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

KEYWORDS = SMALL | {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": False}
PROMPTS = [[3, 9, 27, 81, 5, 15], [7], list(range(3, 50)), [90, 4, 4, 90]]
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
load = martlet.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module", params=["bfloat16", "float16", "tied"])
def half_folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("halves") / "model"
    torch.manual_seed(3)
    tied = request.param == "tied"
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(KEYWORDS | {"tie_word_embeddings": tied})))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.to(torch.float16 if request.param == "float16" else torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture
def model(half_folder):
    return load(half_folder)


def on_engine(model, folder):
    """What the engine alone gives for the weights that the model has now."""
    model.save_pretrained(folder)
    return load(folder, backend="native").generate(PROMPTS, **GREEDY)


def test_generates_what_the_engine_alone_gives(model, half_folder):
    assert model.generates_on == "native" and isinstance(model, torch.nn.Module)
    assert model.generate(PROMPTS, **GREEDY) == load(half_folder, backend="native").generate(PROMPTS, **GREEDY)
    sampled = {**GREEDY, "do_sample": True, "seed": 7, "num_return_sequences": 2}
    assert model.generate(PROMPTS, **sampled) == load(half_folder, backend="native").generate(PROMPTS, **sampled)
    tensor = model.generate(torch.tensor([PROMPTS[0]]), **GREEDY)
    assert tensor.tolist() == model.generate(PROMPTS[:1], **GREEDY)


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    ids = torch.tensor([[3, 9, 27, 81, 5, 15]])
    model(ids, labels=ids).loss.backward()
    optimizer.step()


def edit_data(model):
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data += 0.5  # as adapters are merged: torch counts no change


def replace_weight(model):
    weight = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.flip(weight.detach(), (0,)))


def load_state(model):
    model.load_state_dict({name: weight * 1.5 for name, weight in model.state_dict().items()})


@pytest.mark.parametrize("change", [train, edit_data, replace_weight, load_state])
def test_weights_that_changed_are_seen(model, change, tmp_path):
    before = model.generate(PROMPTS, **GREEDY)
    change(model)
    after = model.generate(PROMPTS, **GREEDY)
    assert model.generates_on == "native" and after != before
    assert after == on_engine(model, tmp_path)


def test_weights_that_did_not_change_are_packed_once(model):
    model.generate(PROMPTS, **GREEDY)
    engine_of = model.handover.engine(model)
    model.generate(PROMPTS, **GREEDY)
    assert model.handover.engine(model) is engine_of
    model.resize_token_embeddings(100)
    assert len(model.generate([[99]], **GREEDY)[0]) == 13
    assert model.handover.engine(model) is not engine_of


def test_the_table_is_shared_and_the_matrices_are_the_second_copy_that_inspect_states(model, half_folder):
    engine_of = model.handover.engine(model)

    def logits():
        session = engine_of.open_session()
        found = session.step([(session.add(), [7, 8])]).logits
        session.close()
        return found

    before, parameters = logits(), dict(model.named_parameters())
    parameters["model.layers.0.mlp.up_proj.weight"].detach().view(torch.uint8).numpy()[:] = 0
    assert np.array_equal(logits(), before)
    table = parameters["model.embed_tokens.weight"].detach().view(torch.uint8).numpy()
    table[8] = table[9]  # the engine reads torch's memory
    assert not np.array_equal(logits(), before)
    stated = model_facts(open_checkpoint(half_folder), {})["engine"]
    assert stated == {"packed": engine_of.packed_bytes, "tables": table.nbytes}


GROWTH = """
import sys, martlet

def grow(path):
    model = martlet.AutoModelForCausalLM.from_pretrained(path)
    before = own()
    model.generate([[3, 4]], max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert model.generates_on == "native"
    return model, own() - before

def own():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))

small = grow(sys.argv[1])
print(grow(sys.argv[2])[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_no_more_memory_than_stated_is_taken(model, half_folder, tmp_path):
    sizes = {"vocab_size": 100_000, "hidden_size": 256, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**(KEYWORDS | sizes | {"tie_word_embeddings": model.config.tie_word_embeddings}))
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "large")
    stated = model_facts(open_checkpoint(tmp_path / "large"), {})["engine"]
    words = [sys.executable, "-c", GROWTH, half_folder, tmp_path / "large"]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert 0.8 * stated["packed"] < grown < stated["packed"] + 0.4 * stated["tables"], (grown, stated)


def wrap(model):
    class Adapter(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) * 2

    model.model.layers[0].self_attn.q_proj = Adapter(model.model.layers[0].self_attn.q_proj)


def replace_forward(model):
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: inner(x) * 2


def add_hook(model):
    model.model.layers[1].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrap, "module model.layers.0.self_attn.q_proj is a Adapter"),
        (replace_forward, "forward of model.layers.0.mlp was replaced"),
        (add_hook, "model.layers.1 has hooks"),
        (lambda model: model.double(), "the engine has no kernels for torch.float64"),
        (lambda model: model.to("meta"), "weights are on meta"),
    ],
)
def test_what_the_engine_cannot_do_is_done_by_torch_and_said(model, change, reason):
    plain = copy.deepcopy(model)
    change(model)
    assert model.generates_on == f"torch: {reason}"
    if "meta" not in reason:
        with torch.no_grad():
            logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
        assert model.generate(PROMPTS[:1], **(GREEDY | {"max_new_tokens": 1}))[0][-1] == int(logits.argmax())
    assert plain.generates_on == "native"


def test_reasons_are_said_once(model, caplog):
    with caplog.at_level("INFO", logger="martlet"):
        add_hook(model)
        for _ in range(2):
            model.generate([[3]], **GREEDY)
        say_why(ASKED + " ")
    said = [record for record in caplog.records if "has hooks" in record.message]
    assert len(said) <= 1  # another test of this process may have said it
    assert all(record.levelname == "WARNING" for record in said)


def test_traces_come_from_torch(model):
    out = model.generate([[3, 4]], **GREEDY, output_hidden_states=True, return_dict_in_generate=True)
    assert len(out.hidden_states) == 12 and model.generates_on == "native"


def test_asked_for(half_folder):
    assert load(half_folder, backend="torch").generates_on == "torch: backend='torch' was asked for"
    assert load(half_folder, dtype="float32").generates_on == "native"
    assert load(half_folder, dtype=torch.bfloat16).generates_on == "native"
    with pytest.raises(ArgumentError, match="must be 'auto' with the native backend, or what is stored"):
        load(half_folder, backend="native", dtype="float32")
    with pytest.raises(UnsupportedError, match="hidden states"):
        load(half_folder, backend="native").open_session(traces=True)


@pytest.fixture(scope="module")
def single_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("singles") / "model"
    torch.manual_seed(4)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(KEYWORDS | {"max_position_embeddings": 256})))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    return path


def test_float32_weights_have_float32_keys_and_values(single_folder, half_folder):
    model, plain = load(single_folder), load(single_folder, backend="torch")
    assert model.generates_on == "native" and model.handover.engine(model).kv_cache_dtype == "float32"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(single_folder).eval()
    long = {**GREEDY, "max_new_tokens": 60}
    for prompt in PROMPTS:
        want = theirs.generate(torch.tensor([prompt]), **long)[0].tolist()
        assert model.generate([prompt], **long) == plain.generate([prompt], **long) == [want]
    halves = load(half_folder)
    assert halves.handover.engine(halves).kv_cache_dtype == "float16"
    assert load(half_folder, backend="native").engine.kv_cache_dtype == "float16"
    assert load(single_folder, backend="native", quantize="int8").engine.kv_cache_dtype == "float16"
    by_name = martlet.auto.load_for_generation(single_folder)
    assert type(by_name).__name__ == "InferenceModel" and by_name.engine.kv_cache_dtype == "float32"


@pytest.mark.parametrize("backend", [None, "native"])
def test_the_dtype_of_keys_and_values_is_the_users(single_folder, backend):
    def logits(model, **asked):
        session = model.open_session(**asked)
        found = session.step([(session.add(), PROMPTS[2])]).logits
        session.close()
        return found

    wide = load(single_folder, backend=backend)
    each = {name: load(single_folder, backend=backend, kv_cache_dtype=name) for name in engine.KV_DTYPES}
    want = logits(wide)
    apart = {}
    for name, model in each.items():
        got = logits(model)
        assert (got == logits(wide, kv_cache_dtype=name)).all()
        assert (got == logits(wide, kv_cache_dtype=getattr(torch, name))).all()
        assert model.generate(PROMPTS, **GREEDY) == wide.generate(PROMPTS, **GREEDY, kv_cache_dtype=name)
        apart[name] = abs(got - want).mean()
    assert apart["float32"] == 0 < apart["float16"] < apart["bfloat16"] / 4
    assert (logits(each["bfloat16"], kv_cache_dtype="auto") == want).all()
    with pytest.raises(ArgumentError, match=r"kv_cache_dtype: must be 'auto', 'float16', .*; found 'float8'"):
        load(single_folder, backend=backend, kv_cache_dtype="float8")
    with pytest.raises(ArgumentError, match="kv_cache_dtype"):
        wide.generate([[3]], max_new_tokens=1, kv_cache_dtype="fp16")


def test_options_of_the_engine_on_torch(single_folder):
    for name, value in {
        "kv_cache_dtype": "float16",
        "kv_cache_bytes": 10**8,
        "num_threads": 1,
        "isa": "scalar",
    }.items():
        with pytest.raises(ArgumentError, match=f"{name}: is for the native engine; found backend='torch'"):
            load(single_folder, backend="torch", **{name: value})
        model = load(single_folder, **{name: value})
        assert model.generates_on == "native"
        for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert getattr(same.handover.engine(same), name) == value
        add_hook(model)
        with pytest.raises(UnsupportedError, match=f"{name}: is for the native engine; found torch: .* has hooks"):
            model.generate([[3]], max_new_tokens=1)


def test_a_value_beyond_float16_is_an_error_that_names_the_remedy(single_folder):
    model = load(single_folder)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[5] *= 1e6
    want = model.generate(PROMPTS, **GREEDY)  # in float32
    with pytest.raises(GenerationError, match=r"float16 holds, of at most 65,504; found .* in layer 1 at position"):
        model.generate(PROMPTS, **GREEDY, kv_cache_dtype="float16")
    with pytest.raises(GenerationError, match="Pass kv_cache_dtype='bfloat16', or 'float32' for twice the memory"):
        model.generate(PROMPTS, **GREEDY, kv_cache_dtype="float16")
    assert len(model.generate(PROMPTS, **GREEDY, kv_cache_dtype="bfloat16")) == len(want)
    assert model.generate(PROMPTS, **GREEDY) == want  # rows that failed leave nothing behind


def test_copies_have_an_engine_of_their_own(model):
    want = model.generate(PROMPTS, **GREEDY)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.generate(PROMPTS, **GREEDY) == want and other.generates_on == "native"
        edit_data(other)
        assert other.generate(PROMPTS, **GREEDY) != want
    assert model.generate(PROMPTS, **GREEDY) == want


def test_from_several_threads(model):
    want, got = model.generate(PROMPTS, **GREEDY), []
    fresh = copy.deepcopy(model)
    threads = [
        threading.Thread(target=lambda: got.append(fresh.generate(PROMPTS, **GREEDY)), daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 3


def test_a_pipeline_by_name_loads_no_torch(half_folder):
    code = """if True:
        import sys, martlet.auto
        model = martlet.auto.load_for_generation(sys.argv[1], device_map="auto")
        assert model.generates_on == "native" and "torch" not in sys.modules
        model.generate([[3, 4]], max_new_tokens=2, do_sample=False)
        assert "torch" not in sys.modules
        martlet.auto.find_spec = lambda name: None  # as where torch is not installed
        model = martlet.AutoModelForCausalLM.from_pretrained(sys.argv[1])
        assert type(model).__name__ == "InferenceModel" and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, str(half_folder)], check=True, timeout=600)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    gguf = pytest.importorskip("gguf")
    gguf_files = pytest.importorskip("gguf_files", exc_type=ModuleNotFoundError)

    def quantize(name, array):
        if array.ndim == 1:
            return array, None
        kind = gguf.GGMLQuantizationType.Q8_0
        return gguf.quants.quantize(array, kind), kind

    keywords = SMALL | {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 4}
    path = tmp_path_factory.mktemp("blocks") / "model.gguf"
    return gguf_files.write_gguf(gguf_files.make_model("llama", keywords), path, quantize)


def test_blocks_of_a_file_are_run_as_they_are(blocks, tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(blocks.read_bytes())
    model = load(path)
    assert model.dtype == torch.float32 and model.generates_on == "native"
    assert model.handover.engine(model).kinds["model.layers.0.mlp.up_proj.weight"] == "Q8_0"
    assert model.generate(PROMPTS, **GREEDY) == load(path, backend="native").generate(PROMPTS, **GREEDY)
    wide = martlet.auto.load_for_generation(path, dtype="float32")  # the numbers unpacked
    assert isinstance(wide, torch.nn.Module) and wide.generates_on == "native"
    assert wide.generate(PROMPTS, **GREEDY) == load(path, backend="torch").generate(PROMPTS, **GREEDY)
    assert load(path, dtype="bfloat16").generates_on == "native"  # the blocks unpacked to it
    edit_data(model)
    assert set(model.handover.engine(model).kinds.values()) == {"F32"}
    torch_only = copy.deepcopy(model)
    torch_only.handover = Handover(wanted=False)
    assert model.generate(PROMPTS, **GREEDY) == torch_only.generate(PROMPTS, **GREEDY)


def test_a_file_that_changed_meanwhile_is_not_read(blocks, tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(blocks.read_bytes())
    model = load(path)
    os.truncate(path, 1000)
    assert model.generates_on == "torch: the file was changed since it was loaded"
    assert model.generate(PROMPTS, **GREEDY)
    gone = load(blocks)
    assert gone.generates_on == "native"


def test_blocks_without_kernels(tmp_path, blocks, monkeypatch):
    def refuse(*arguments, **keywords):
        raise UnsupportedError("tensor x", "the engine has no kernels for Q2_K")

    monkeypatch.setattr("martlet.handover.build_engine_model", refuse)
    assert load(blocks).generates_on == "torch: tensor x: the engine has no kernels for Q2_K."
    monkeypatch.setattr("martlet.auto.kinds", lambda: ("F32",))
    assert isinstance(martlet.auto.load_for_generation(blocks), torch.nn.Module)
