"""Every family against Hugging Face in float32: logits padded, cached, alone; greedy ids; save and load both ways."""

import pytest
import torch
import transformers

import martlet
import martlet.engine

# B rows, P padded width
TOLERANCE = 2e-4  # float32, logits up to 10, a few hundred additions in another order


@pytest.fixture(scope="session")
def model(folder):
    return martlet.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def batch(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    ids_BP = torch.randint(3, 96, (3, 20))
    mask_BP = torch.ones_like(ids_BP)
    for row, padding in enumerate((0, 7, 12)):
        if padding and side == "left":
            mask_BP[row, :padding] = 0
        elif padding and side == "right":
            mask_BP[row, -padding:] = 0
    return ids_BP * mask_BP, mask_BP


def reference_logits(reference, ids_BP, mask_BP):
    """Row by row without padding: what each row alone should give."""
    out = []
    for ids, mask in zip(ids_BP, mask_BP, strict=True):
        with torch.no_grad():
            out.append(reference(ids[mask.bool()][None]).logits[0])
    return out


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_of_each_row_are_those_of_the_row_alone(reference, model, side):
    ids_BP, mask_BP = batch(side)
    with torch.no_grad():
        got = model(input_ids=ids_BP, attention_mask=mask_BP).logits
    for row, want in enumerate(reference_logits(reference, ids_BP, mask_BP)):
        assert want.abs().max() > 0.5  # a model that says nothing would agree with anything
        torch.testing.assert_close(got[row][mask_BP[row].bool()], want, atol=TOLERANCE, rtol=1e-4)


def test_hidden_states_and_attentions(reference, model):
    ids_BP, _ = batch("none")
    with torch.no_grad():
        want = reference(ids_BP, output_hidden_states=True, output_attentions=True)
        got = model(ids_BP, output_hidden_states=True, output_attentions=True)
    assert len(got.hidden_states) == len(want.hidden_states)
    for ours, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-4)
    for ours, theirs in zip(got.attentions, want.attentions, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=1e-4)


def test_cached_steps_equal_one_pass(model):
    ids_BP, mask_BP = batch("left")
    with torch.no_grad():
        whole = model(ids_BP, attention_mask=mask_BP).logits
        first = model(ids_BP[:, :15], attention_mask=mask_BP[:, :15], use_cache=True)
        then = model(ids_BP[:, 15:], attention_mask=mask_BP, past_key_values=first.past_key_values)
    torch.testing.assert_close(first.logits, whole[:, :15], atol=TOLERANCE, rtol=1e-4)
    torch.testing.assert_close(then.logits, whole[:, 15:], atol=TOLERANCE, rtol=1e-4)


def test_loss_and_gradients_equal_hugging_faces(reference, folder):
    ours = martlet.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    ids_BP, _ = batch("none")
    want = reference(ids_BP, labels=ids_BP).loss
    got = ours(ids_BP, labels=ids_BP).loss
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    reference.zero_grad()
    want.backward()
    got.backward()
    theirs = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.get_input_embeddings().weight.grad, theirs, atol=2e-4, rtol=1e-3)


def test_base_model(reference, folder):
    base = martlet.AutoModel.from_pretrained(folder, dtype="float32")
    ids_BP, _ = batch("none")
    with torch.no_grad():
        want = reference.base_model(ids_BP).last_hidden_state
        got = base(ids_BP).last_hidden_state
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=1e-4)


def test_what_we_save_hugging_face_loads(reference, model, tmp_path):
    model.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids_BP, _ = batch("none")
    with torch.no_grad():
        assert torch.equal(theirs.float()(ids_BP).logits, reference(ids_BP).logits)
    again = martlet.AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_saved_base_model_loads_in_both(reference, folder, tmp_path):
    martlet.AutoModel.from_pretrained(folder, dtype="float32").save_pretrained(tmp_path)
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours = martlet.AutoModel.from_pretrained(tmp_path)
    ids_BP, _ = batch("none")
    with torch.no_grad():
        want = reference.base_model(ids_BP).last_hidden_state
        torch.testing.assert_close(theirs.float()(ids_BP).last_hidden_state, want)
        torch.testing.assert_close(ours(ids_BP).last_hidden_state, want, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_greedy_ids_equal_hugging_faces(reference, model, folder, backend):
    if backend == "torch":
        model = martlet.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", backend="torch")
    elif martlet.engine.is_built():
        assert model.generates_on == "native"
    ids_BP, mask_BP = batch("left")
    got = model.generate(ids_BP, attention_mask=mask_BP, max_new_tokens=16, do_sample=False)
    for row in range(3):
        alone = ids_BP[row][mask_BP[row].bool()][None]
        want = reference.generate(alone, max_new_tokens=16, do_sample=False)[0, alone.shape[1] :]
        assert got[row, 20 : 20 + len(want)].tolist() == want.tolist()
