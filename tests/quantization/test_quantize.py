"""Models made smaller: types by measured divergence, files that others read, failures that leave nothing."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import martlet
from martlet import engine
from martlet.arch import tensors
from martlet.checkpoint import open_checkpoint
from martlet.errors import ArgumentError, ConfigError, MartletError, SaveError, UnsupportedError, WeightsError
from martlet.formats import open_weights, to_float32
from martlet.formats.files import write_json
from martlet.quantization import choice
from martlet.quantization.quantize import quantize
from martlet.tokenizers.auto import AutoTokenizer

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 2
SIZES = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def save_tokenizer(folder):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({char: place for place, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>", "<|a|>", "<|b|>", "<|c|>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def make_model(model_type, **more):
    torch.manual_seed(3)
    sizes = {name: size for name, size in (SIZES | more).items() if model_type != "gpt_neox" or "key_value" not in name}
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.12)
            if "layers.1.mlp.down_proj" in name:
                parameter.data[:, 5] *= 6  # one that four bits serve badly
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama"
    make_model("llama", tie_word_embeddings=True).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """SmolLM2-like: llama.cpp's order of rows in q and k, a head tied to the table, a tokenizer inside."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
    import gguf
    from gguf_files import converted

    model = make_model("llama", tie_word_embeddings=True)
    path = tmp_path_factory.mktemp("gguf") / "model.F32.gguf"
    writer = gguf.GGUFWriter(None, "llama")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(260)
    writer.add_file_type(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*alphabet, "\u0120\u0120", "<|end|>", "<|a|>", "<|b|>"])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["\u0120 \u0120"])
    writer.add_eos_token_id(257)
    for name, array in converted(model):
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def run(source, out, to="int4", **keywords):
    return quantize(open_checkpoint(source), AutoTokenizer.from_pretrained(source), to, out, text=TEXT, **keywords)


def logits(path, backend, ids):
    if backend == "torch":
        model = martlet.AutoModelForCausalLM.from_pretrained(path, backend="torch", dtype="float32")
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()
    session = martlet.AutoModelForCausalLM.from_pretrained(path, backend="native").open_session()
    return session.step([(session.add(), ids)], logits="all").logits


@pytest.mark.parametrize("to, most", [("int4", 5.0), ("int8", 9.0)])
def test_a_folder_that_both_backends_load(folder, tmp_path, to, most):
    report = run(folder, tmp_path / "out", to)
    assert report.bits <= most
    assert report.bytes_after < report.bytes_before / (6 if to == "int4" else 3.4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(config["quantization_config"]["types"].values()) <= set(choice.LADDERS[to])
    ids = AutoTokenizer.from_pretrained(tmp_path / "out").encode(TEXT)
    assert ids == AutoTokenizer.from_pretrained(folder).encode(TEXT)
    ours, theirs = (logits(tmp_path / "out", backend, ids) for backend in ("native", "torch"))
    assert np.abs(theirs).max() > 0.5
    assert np.abs(ours - theirs).mean() < 0.03 * np.abs(theirs).mean()  # activations in 8 bits
    true = logits(folder, "torch", ids)
    assert np.abs(theirs - true).mean() < {"int4": 0.35, "int8": 0.035}[to] * np.abs(true).mean()


def test_the_saved_numbers_are_those_that_were_tried(folder, tmp_path):
    report = run(folder, tmp_path / "out")
    opened = open_checkpoint(tmp_path / "out")
    source = opened.open_weights()
    for unit in report.units:
        info = source.info(unit.name)
        assert (info.dtype, info.shape) == (unit.kind, unit.shape)
        want = to_float32(*_stored(open_weights(folder / "model.safetensors"), unit.name))
        got = to_float32(source.raw(unit.name), info.dtype, info.shape)
        bound = {"Q4_0": 1 / 7, "Q4_1": 1 / 14, "Q5_0": 1 / 15, "Q8_0": 1 / 126}[unit.kind]
        assert np.abs(got - want).max() <= bound * np.abs(want).max()
    assert {"Q4_0"} < set(report.kinds)  # some were raised


def _stored(source, name):
    info = source.info(name)
    return source.raw(name), info.dtype, info.shape


def test_what_four_bits_serve_badly_gets_more(folder, tmp_path):
    report = run(folder, tmp_path / "out")
    assert report.divergences.chosen < 0.6 * report.divergences.uniform
    costs = {unit: [] for unit in (True, False)}
    for unit in report.units:
        costs[unit.kind == "Q4_0"].append(unit.divergence / unit.num_weights)
    assert np.median(costs[False]) > 1.5 * np.median(costs[True])


def test_more_bits_diverge_less_and_no_budget_is_passed(folder, tmp_path):
    found = [run(folder, tmp_path / f"out{bits}", bits=bits) for bits in (4.5, 5.0, 6.5, 8.5)]
    assert [report.bits <= bits for report, bits in zip(found, (4.5, 5.0, 6.5, 8.5), strict=True)] == [True] * 4
    assert set(found[0].kinds) == {"Q4_0"}
    apart = [report.divergences.chosen for report in found]
    assert apart == sorted(apart, reverse=True)
    assert found[0].divergences.chosen == found[0].divergences.uniform


@pytest.mark.parametrize("model_type", ["phi3", "gpt_neox", "qwen2"])
def test_other_families(model_type, tmp_path):
    """Fused q, k and v, biases, an own head: the layout is Hugging Face's, part by part."""
    more = {"pad_token_id": 0} if model_type == "phi3" else {}
    source = tmp_path / model_type
    make_model(model_type, tie_word_embeddings=False, **more).save_pretrained(source)
    save_tokenizer(source)
    run(source, tmp_path / "out", "int8")
    ids = list(range(3, 40))
    true = logits(source, "torch", ids)
    for backend in ("native", "torch"):
        assert np.abs(logits(tmp_path / "out", backend, ids) - true).mean() < 0.05 * np.abs(true).mean()


def test_transformers_refuses_the_folder_rather_than_misread_it(folder, tmp_path):
    run(folder, tmp_path / "out", "int8")
    with pytest.raises(Exception, match="mismatched"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_saved_again_from_torch_it_is_a_plain_folder(folder, tmp_path):
    run(folder, tmp_path / "out", "int8")
    model = martlet.AutoModelForCausalLM.from_pretrained(tmp_path / "out", backend="torch")
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    ids = list(range(3, 30))
    with torch.no_grad():
        want = reloaded(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits(tmp_path / "out", "torch", ids), want, atol=2e-5)


@pytest.mark.parametrize("to", ["int4", "int8"])
def test_a_gguf_file_that_others_read(gguf_file, tmp_path, to):
    import gguf

    out = tmp_path / "out.gguf"
    report = run(gguf_file, out, to)
    reader = gguf.GGUFReader(out)
    original = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    kinds = {unit.name: unit.kind for unit in report.units}
    assert {tensor.name for tensor in reader.tensors} == original.keys()
    for tensor in reader.tensors:
        assert tensor.tensor_type.name == kinds.get(tensor.name, "F32")
        got = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        want = original[tensor.name].data.reshape(got.shape)
        assert np.abs(got - want).max() <= {"int4": 0.14, "int8": 0.005}[to] * max(np.abs(want).max(), 1e-9)
    assert reader.get_field("tokenizer.ggml.pre").contents() == "gpt-2"
    ids = list(range(3, 40))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits(out, "torch", ids), theirs, atol=1e-4 * np.abs(theirs).max() + 1e-5)
    assert np.abs(logits(out, "native", ids) - theirs).mean() < 0.03 * np.abs(theirs).mean()


def test_llama_cpp_reads_it(gguf_file, tmp_path):
    from martlet.bench.peers import PEERS, why_absent
    from martlet.bench.run import Worker

    python = os.environ.get("MARTLET_PEER_PYTHON", sys.executable)
    if reason := why_absent(PEERS["llama.cpp"], python):
        pytest.skip(reason)
    out = tmp_path / "out.gguf"
    run(gguf_file, out)
    worker, ids = Worker("llama.cpp", python), list(range(3, 40))
    try:
        worker.ask(do="load", model=str(out), threads=1, context=256, rows=1, options={})
        shape = worker.ask(do="logits", ids=ids, path=str(tmp_path / "logits"))["shape"]
    finally:
        worker.close()
    theirs = np.fromfile(tmp_path / "logits", np.float32).reshape(shape)
    ours = logits(out, "torch", ids)
    np.testing.assert_allclose(ours, theirs, atol=0.08 * np.abs(theirs).max())


def test_a_gguf_file_becomes_a_folder(gguf_file, tmp_path):
    run(gguf_file, tmp_path / "out", "int8")
    ids = list(range(3, 40))
    true = logits(gguf_file, "torch", ids)
    assert np.abs(logits(tmp_path / "out", "torch", ids) - true).mean() < 0.035 * np.abs(true).mean()


# what is refused


def test_before_any_work(folder, gguf_file, tmp_path):
    (tmp_path / "there").mkdir()
    for keywords, error, said in (
        ({"out": tmp_path / "there"}, ArgumentError, "must not be there yet"),
        ({"out": tmp_path / "no" / "where"}, ArgumentError, "folder that is there"),
        ({"out": tmp_path / "out", "to": "int3"}, ArgumentError, "must be one of"),
        ({"out": tmp_path / "out", "bits": 4.0}, ArgumentError, "must be from 4.5"),
    ):
        with pytest.raises(error, match=said):
            run(folder, **keywords)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_save_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    from martlet.quantization import quantize as module

    def full(*words, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_sharded", full)
    with pytest.raises(SaveError, match="ENOSPC"):
        run(folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def packed(folder, tmp_path):
    run(folder, tmp_path / "out", "int8")
    return tmp_path / "out"


def change(path, edit):
    config = json.loads((path / "config.json").read_text())
    edit(config["quantization_config"])
    write_json(path / "config.json", config)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(
    "edit, error, said",
    [
        (lambda q: q["types"].update(nothing="Q8_0"), WeightsError, "no nothing"),
        (lambda q: q["types"].pop("model.layers.0.mlp.up_proj.weight"), WeightsError, "is bytes"),
        (lambda q: q["types"].update({"model.norm.weight": "Q8_0"}), WeightsError, "must be bytes of shape"),
        (lambda q: q["types"].update({"model.layers.0.mlp.up_proj.weight": "Q4_0"}), WeightsError, "Q4_0 must be"),
        (lambda q: q["types"].update({"model.layers.0.mlp.up_proj.weight": "Q9_9"}), ConfigError, "must be one of"),
        (lambda q: q["types"].update({"model.layers.0.mlp.up_proj.weight": 8}), ConfigError, "must be one of"),
        (lambda q: q.update(group_size=64), ConfigError, "quant_method and types alone"),
        (lambda q: q.update(types=[]), ConfigError, "quant_method and types alone"),
        (lambda q: q.update(quant_method="awq"), UnsupportedError, "awq"),
    ],
)
def test_a_layout_that_lies(packed, backend, edit, error, said):
    change(packed, edit)
    with pytest.raises(error, match=said):
        martlet.AutoModelForCausalLM.from_pretrained(packed, backend=backend)


def test_a_config_given_by_the_user_does_not_hide_the_types(packed):
    config = martlet.AutoConfig.from_pretrained(packed)
    assert "quantization_config" not in config
    ids = list(range(3, 20))
    want = logits(packed, "torch", ids)
    model = martlet.AutoModelForCausalLM.from_pretrained(packed, config=config, dtype="float32", backend="torch")
    with torch.no_grad():
        np.testing.assert_array_equal(model(torch.tensor([ids])).logits[0].numpy(), want)


def test_a_cut_file_is_refused(packed):
    weights = packed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(MartletError, match="truncated"):
        martlet.AutoModelForCausalLM.from_pretrained(packed, backend="native")


def test_the_command(folder, tmp_path):
    command = [sys.executable, "-m", "martlet", "quantize", str(folder), "--to", "int4", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--tokens", "40"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "bits a weight" in done.stdout and "Q4_0" in done.stdout and "divergence" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.count("\n") == 1 and "must not be there yet" in again.stderr
    inspected = subprocess.run(
        [sys.executable, "-m", "martlet", "inspect", str(tmp_path / "out"), "--json"], capture_output=True, text=True
    )
    assert "Q4_0" in json.loads(inspected.stdout)["weights"]["dtypes"]


def test_the_layout_is_what_the_document_says():
    said = (Path(__file__).parents[2] / "docs" / "quantizing.md").read_text()
    for word in ("quantization_config", "martlet-blocks", '"types"', "U8", *choice.LADDERS["int4"]):
        assert word in said


def test_positions_and_norms_keep_their_type():
    config = copy.deepcopy(martlet.AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=50))
    names = [name for name in tensors(config.arch) if choice.is_matrix(name, config.arch)]
    assert "model.embed_positions.weight" not in names
    assert all(name.endswith(".weight") and "norm" not in name for name in names)
