"""Encoders against Hugging Face in float32: states and pooler padded on either side, saved and loaded both ways."""

import copy

import pytest
import torch
import transformers
from tiny_models import TINY_ENCODERS

import martlet
from martlet import engine
from martlet.errors import ArgumentError, ConfigError, UnsupportedError, WeightsError

TOLERANCE = 2e-5  # float32, states of a few units, three layers


@pytest.fixture(scope="module", params=TINY_ENCODERS)
def reference(request):
    model_type, keywords = TINY_ENCODERS[request.param]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords))
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.normal_(1.0 if is_scale else 0.0, 0.2 if is_scale else 0.3)
    return model


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    reference.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return martlet.AutoModel.from_pretrained(folder)


def batch(side):
    torch.manual_seed(1)
    ids_BP, mask_BP = torch.randint(3, 96, (3, 16)), torch.ones(3, 16, dtype=torch.int64)
    for row, padding in enumerate((0, 5, 11)):
        if padding and side != "none":
            mask_BP[row, slice(0, padding) if side == "left" else slice(16 - padding, 16)] = 0
    return ids_BP * mask_BP, mask_BP


def segments(model, ids_BP):
    return {"token_type_ids": (torch.arange(16) > 7).long().expand_as(ids_BP)} if model.arch.token_types > 1 else {}


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_each_row_is_as_it_is_alone(reference, model, side):
    ids_BP, mask_BP = batch(side)
    types = segments(model, ids_BP)
    with torch.no_grad():
        got = model(input_ids=ids_BP, attention_mask=mask_BP, **types)
    for row in range(3):
        real = mask_BP[row].bool()
        with torch.no_grad():
            want = reference(ids_BP[row][real][None], **{key: value[row][real][None] for key, value in types.items()})
        assert want.last_hidden_state.abs().max() > 0.5
        torch.testing.assert_close(got.last_hidden_state[row][real], want[0][0], atol=TOLERANCE, rtol=1e-4)
        assert not got.last_hidden_state[row][~real].any()
        if "pooler_output" in want:
            torch.testing.assert_close(got.pooler_output[row], want.pooler_output[0], atol=TOLERANCE, rtol=1e-4)
        else:
            assert "pooler_output" not in got


def test_states_attentions_gradients_and_tuples(reference, model):
    ids_BP, _ = batch("none")
    asked = {"output_hidden_states": True, "output_attentions": True}
    want, got = reference(ids_BP, **asked), model(ids_BP, **asked)
    for key in ("hidden_states", "attentions"):
        assert len(got[key]) == len(want[key])
        for ours, theirs in zip(got[key], want[key], strict=True):
            torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-4)
    assert torch.equal(model(ids_BP, **asked, return_dict=False)[0], got.last_hidden_state)
    tables = [each.get_input_embeddings().weight for each in (model, reference)]
    ours, theirs = (
        torch.autograd.grad(out.last_hidden_state.square().mean(), table)[0]
        for out, table in zip((got, want), tables, strict=True)
    )
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-3)


def test_saved_and_loaded_both_ways(reference, model, tmp_path):
    model.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for name, weight in reference.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], weight), name
    again = martlet.AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_gamma_and_beta_of_the_first_files(folder, model, tmp_path):
    from safetensors.torch import load_file, save_file

    old = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[name] = weight
    old["embeddings.position_ids"] = torch.arange(40)[None]
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    again = martlet.AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_a_missing_pooler_is_left_out_by_name_only(reference, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    kept = {name: weight for name, weight in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    if reference.config.model_type == "distilbert":
        with pytest.raises(ArgumentError, match="no pooler"):
            martlet.AutoModel.from_pretrained(tmp_path, add_pooling_layer=True)
        return
    with pytest.raises(WeightsError, match=r"2 of \d+ tensors missing: model.pooler.dense.weight"):
        martlet.AutoModel.from_pretrained(tmp_path)
    out = martlet.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)(torch.tensor([[5, 6]]))
    assert out.pooler_output is None


def test_dropout_is_of_the_sample_and_the_step(folder):
    from martlet.nn.draws import drawing, number_places

    model = martlet.AutoModel.from_pretrained(folder).train()
    number_places(model)
    ids_BP, mask_BP = batch("right")

    def states(step, samples, rows):
        with torch.no_grad(), drawing(7, step, samples, mask_BP[rows].sum(1).tolist()):
            return model(ids_BP[rows], attention_mask=mask_BP[rows]).last_hidden_state

    both, turned = states(1, [4, 9], [1, 2]), states(1, [9, 4], [2, 1])
    torch.testing.assert_close(both[0], turned[1], atol=TOLERANCE, rtol=1e-4)
    torch.testing.assert_close(both[1], states(1, [9], [2])[0], atol=TOLERANCE, rtol=1e-4)
    for other in (states(2, [4, 9], [1, 2]), states(1, [5, 9], [1, 2]), model.eval()(ids_BP[1:])[0]):
        assert (other[0] - both[0]).abs().max() > 0.1


def test_what_an_encoder_cannot_do_is_said(folder, model, tmp_path):
    with pytest.raises(ArgumentError, match=r"a row must not be longer than the \d+ positions of the model; found 60"):
        model(torch.ones(1, 60, dtype=torch.int64))
    with pytest.raises(UnsupportedError, match="cannot continue text"):
        martlet.AutoModelForCausalLM.from_pretrained(folder)
    if engine.is_built():
        config = martlet.AutoConfig.from_pretrained(folder)
        with pytest.raises(UnsupportedError, match="native engine: computes architectures whose causal is True"):
            engine.build_engine_model(config.arch, None, {})
    if model.arch.token_types == 0:
        with pytest.raises(ArgumentError, match="no segments"):
            model(torch.tensor([[5, 6]]), token_type_ids=torch.tensor([[0, 1]]))
    else:
        with pytest.raises(ConfigError, match="is_decoder is supported at False only"):
            martlet.AutoConfig.from_pretrained(folder, is_decoder=True)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_the_real_minilm(minilm_folder, side):
    ours = martlet.AutoModel.from_pretrained(minilm_folder)
    theirs = transformers.AutoModel.from_pretrained(minilm_folder).eval()
    tokenizer = martlet.AutoTokenizer.from_pretrained(minilm_folder, padding_side="left" if side == "left" else "right")
    texts = ["A martlet never lands.", "It is the bird of heraldry, without feet, and of younger sons.", "Yes"]
    rows = [tokenizer(text, return_tensors="pt") for text in texts]
    if side == "none":
        batches = [(row, [place]) for place, row in enumerate(rows)]
    else:
        batches = [(tokenizer(texts, padding=True, return_tensors="pt"), [0, 1, 2])]
    for inputs, places in batches:
        with torch.no_grad():
            got = ours(**inputs)
        for row, place in enumerate(places):
            with torch.no_grad():
                want = theirs(**rows[place])
            real = inputs["attention_mask"][row].bool()
            torch.testing.assert_close(got.last_hidden_state[row][real], want[0][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(got.pooler_output[row], want[1][0], atol=1e-5, rtol=1e-5)
