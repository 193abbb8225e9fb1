"""Heads against Hugging Face in float32: logits, losses, gradients, and checkpoints of either library in the other."""

import copy
import inspect
import logging

import pytest
import torch
import transformers
from tiny_models import TINY, TINY_ENCODERS

import martlet
from martlet.errors import ArgumentError, ConfigError, UnsupportedError, WeightsError

TOLERANCE = 5e-5  # float32, scores of a few units, a few layers
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "gpt2", "opt", "opt-350m", "gpt_neox")
DECODERS += ("phi", "smollm3", "gemma", "granite", "olmo2")
TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice", "MaskedLM")


def cases():
    for name, (model_type, keywords) in {**TINY_ENCODERS, **{each: TINY[each] for each in DECODERS}}.items():
        config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords))
        for task in TASKS:
            door = getattr(transformers, f"AutoModelFor{task}")
            if type(config) in door._model_mapping and not (task == "MaskedLM" and name in DECODERS):
                yield pytest.param((name, task), id=f"{name}-{task}")


@pytest.fixture(scope="module", params=cases())
def pair(request, tmp_path_factory):
    """Hugging Face's model, and ours loaded from what it saved."""
    name, task = request.param
    model_type, keywords = {**TINY, **TINY_ENCODERS}[name]
    labels = {"num_labels": 3} if task in ("SequenceClassification", "TokenClassification") else {}
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords), **labels)
    torch.manual_seed(0)
    door = f"AutoModelFor{task}"
    reference = getattr(transformers, door).from_config(config, attn_implementation="eager").float().eval()
    for key, parameter in reference.named_parameters():
        is_scale = parameter.ndim == 1 and key.endswith("weight")
        parameter.data.normal_(1.0 if is_scale else 0.0, 0.2)
    folder = tmp_path_factory.mktemp("head")
    reference.save_pretrained(folder)
    return reference, getattr(martlet, door).from_pretrained(folder), folder, task


def inputs_of(task):
    torch.manual_seed(2)
    shape = (2, 3, 12) if task == "MultipleChoice" else (3, 12)
    ids, mask = torch.randint(3, 96, shape), torch.ones(shape, dtype=torch.int64)
    mask[1, ..., 8:] = 0
    return ids * mask, mask


def labels_of(task):
    torch.manual_seed(3)
    match task:
        case "SequenceClassification":
            return {"labels": torch.tensor([2, 0, 1])}
        case "MultipleChoice":
            return {"labels": torch.tensor([2, 0])}
        case "QuestionAnswering":
            return {"start_positions": torch.tensor([1, 3, 99]), "end_positions": torch.tensor([4, 7, 2])}
    labels = torch.randint(0, 3, (3, 12))
    labels[:, ::3] = -100
    labels[1, 8:] = -100
    return {"labels": labels}


def names_of(task):
    return ("start_logits", "end_logits") if task == "QuestionAnswering" else ("logits",)


def reference_rows(reference, task, ids, mask):
    """Each row alone, without its padding."""
    for row, real in zip(ids, mask.bool(), strict=True):
        kept = row[:, real[0]] if task == "MultipleChoice" else row[real]
        with torch.no_grad():
            yield reference(kept[None])


def test_logits_of_each_row(pair):
    reference, model, _, task = pair
    ids, mask = inputs_of(task)
    with torch.no_grad():
        got = model(input_ids=ids, attention_mask=mask)
    for row, want in enumerate(reference_rows(reference, task, ids, mask)):
        for name in names_of(task):
            ours, theirs = got[name][row], want[name][0]
            if task in ("TokenClassification", "QuestionAnswering", "MaskedLM"):
                padding = ours[~mask[row].bool()]
                assert bool((padding == (float("-inf") if task == "QuestionAnswering" else 0)).all())
                ours = ours[mask[row].bool()]
            assert theirs.abs().max() > 0.1
            torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-3)


def test_loss_and_gradients(pair):
    reference, model, _, task = pair
    ids, _ = inputs_of(task)
    ids = ids.clamp(min=3)  # no padding: Hugging Face's questions see it
    labels = labels_of(task)
    want, got = reference(ids, **labels), model(ids, **labels)
    torch.testing.assert_close(got.loss, want.loss, atol=1e-5, rtol=1e-4)
    ours, theirs = (
        torch.autograd.grad(out.loss, each.get_input_embeddings().weight)[0]
        for out, each in ((got, model), (want, reference))
    )
    assert theirs.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-2)


def test_what_we_save_hugging_face_loads(pair, tmp_path):
    reference, model, _, task = pair
    model.save_pretrained(tmp_path)
    theirs, report = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for name, weight in reference.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], weight), name
    again = getattr(martlet, f"AutoModelFor{task}").from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())
    assert type(theirs) is type(reference) and again.config.id2label == theirs.config.id2label


def test_what_a_call_returns(pair):
    reference, model, _, task = pair
    ids, _ = inputs_of(task)
    ids = ids.clamp(min=3)
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        got, want = model(ids, **asked, **labels_of(task)), reference(ids, **asked, **labels_of(task))
    assert [name for name in got if name in want] == [name for name in want if name not in ("past_key_values", "cache")]
    assert len(got.hidden_states) == len(want.hidden_states)
    torch.testing.assert_close(got.hidden_states[1], want.hidden_states[1], atol=1e-4, rtol=1e-3)
    assert len(got.attentions) == len(want.attentions)
    assert model.num_labels == reference.config.num_labels
    assert "attention_mask" in inspect.signature(model.forward).parameters  # what collators and trainers ask


# Sequence classification: its problems


@pytest.fixture(scope="module", params=["bert", "llama"])
def base(request, tmp_path_factory):
    """A folder of a body without a classifier."""
    model_type, keywords = {**TINY, **TINY_ENCODERS}[request.param]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords))
    folder = tmp_path_factory.mktemp("base")
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("num_labels", "problem", "labels"),
    [
        (1, None, torch.tensor([0.5, -1.0, 2.0])),
        (1, None, torch.tensor([[0.5], [-1.0], [2.0]])),
        (3, "regression", torch.randn(3, 3)),
        (3, None, torch.tensor([0, 2, 1])),
        (3, None, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])),
        (3, "multi_label_classification", torch.ones(3, 3)),
    ],
)
def test_each_problem_type(base, tmp_path, num_labels, problem, labels):
    chosen = {} if problem is None else {"problem_type": problem}
    model = martlet.AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels, **chosen)
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.num_labels == num_labels and theirs.config.problem_type == problem
    ids, _ = inputs_of("SequenceClassification")
    ids = ids.clamp(min=3)
    torch.testing.assert_close(model(ids, labels=labels).loss, theirs(ids, labels=labels).loss, atol=1e-5, rtol=1e-4)


def test_labels_that_cannot_be_meant(base):
    model = martlet.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ArgumentError, match=r"labels: must be 0 to 2, or -100; found 3"):
        model(ids, labels=torch.tensor([3]))
    with pytest.raises(ArgumentError, match="multi_label_classification needs one for each of"):
        model(ids, labels=torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ArgumentError, match="problem_type: must be one of regression"):
        martlet.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, problem_type="ranking")


# New heads


def test_a_new_head_is_named_seeded_and_said(base, caplog):
    def load(**keywords):
        return martlet.AutoModelForSequenceClassification.from_pretrained(base, **keywords)

    with pytest.raises(WeightsError, match=r"has no such head: head.out.weight.*num_labels= or id2label="):
        load()
    martlet.set_seed(1)
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, "martlet"):
        model = load(id2label={0: "no", 1: "yes", 2: "maybe"})
    assert torch.equal(torch.get_rng_state(), state)
    (said,) = [record.message for record in caplog.records if "new weights" in record.message]
    assert "head.out.weight [3, 32]" in said
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"} and model.config.label2id["maybe"] == 2
    again = load(num_labels=3).head.out.weight
    assert torch.equal(again, model.head.out.weight)
    assert 0.01 < again.std() < 0.03
    martlet.set_seed(2)
    assert not torch.equal(load(num_labels=3).head.out.weight, again)
    assert load(allow_new="head").num_labels == 2
    assert load(allow_new=["score" if model.arch.causal else "classifier"]).num_labels == 2


def test_nothing_else_is_made_up(base, tmp_path):
    from safetensors.torch import load_file, save_file

    kept = load_file(base / "model.safetensors")
    gone = next(name for name in kept if ".1." in name and name.endswith("weight"))
    del kept[gone]
    save_file(kept, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"1 of .* tensors missing: model.layers.1"):
        martlet.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2, allow_new="head")
    with pytest.raises(ArgumentError, match=r"allow_new: this model has .*head.*; found 'layers'"):
        martlet.AutoModelForSequenceClassification.from_pretrained(base, allow_new="layers")


def test_a_head_of_other_labels_is_not_replaced(base, tmp_path):
    martlet.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"the head asked for needs the shape \[5, 32\]; found a tensor of shape"):
        martlet.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    with pytest.raises(ConfigError, match="num_labels is 2; found 3 names"):
        martlet.AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=2, id2label={0: "a", 1: "b", 2: "c"}
        )
    assert martlet.AutoModel.from_pretrained(tmp_path) is not None  # a body of a classifier


def test_the_last_real_token_decides(base):
    model = martlet.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    if not model.arch.causal:
        with pytest.raises(UnsupportedError, match="cannot continue text"):
            martlet.AutoModelForCausalLM.from_pretrained(base)
        return
    row = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        alone = model(row).logits
        for padded in ([[5, 6, 7, 0, 0]], [[0, 0, 5, 6, 7]]):
            ids = torch.tensor(padded)
            torch.testing.assert_close(model(ids).logits, alone)
            torch.testing.assert_close(model(ids, attention_mask=(ids != 0).long()).logits, alone)
    with pytest.raises(UnsupportedError, match="cannot fill in masked ones"):
        martlet.AutoModelForMaskedLM.from_pretrained(base)
    with pytest.raises(ArgumentError, match="keeps no cache"):
        model(row, use_cache=True)


def test_from_config_is_the_seeds():
    config = martlet.AutoConfig.for_model("bert", **TINY_ENCODERS["bert"][1])
    made = []
    for _ in range(2):
        martlet.set_seed(5)
        made.append(martlet.AutoModelForTokenClassification.from_config(config, num_labels=4).head.out.weight)
    assert torch.equal(*made) and made[0].shape == (4, 32)


def test_masked_lm_from_a_body_needs_the_heads_name(base):
    if "bert" in (base / "config.json").read_text():
        with pytest.raises(WeightsError, match="tensors missing: lm_transform"):
            martlet.AutoModelForMaskedLM.from_pretrained(base)
        model = martlet.AutoModelForMaskedLM.from_pretrained(base, allow_new="lm_head")
        assert model.lm_head.weight is model.model.embed_tokens.weight
