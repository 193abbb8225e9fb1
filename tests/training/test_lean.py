"""Lean formulas beside what autograd makes of the plain ones: values bit for bit, gradients within rounding."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model

from martlet.nn.attention import takes_groups
from martlet.nn.compute import computing_in_float32, is_plain
from martlet.nn.draws import drawing, number_places
from martlet.nn.lean import LowRank, changed_linear, gated_product, gated_silu, rms_norm, rotate
from martlet.training import LoraConfig, get_peft_model


def drawn(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def plain_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 16)])
def test_gradients_of_the_formulas(shape):
    weight = drawn(shape[-1])
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), (drawn(*shape), weight))
    assert torch.autograd.gradcheck(gated_silu, (drawn(*shape), drawn(*shape)))
    product = (drawn(*shape), drawn(*shape), drawn(5, shape[-1]), drawn(5))
    assert torch.autograd.gradcheck(gated_product, product)
    assert torch.autograd.gradcheck(lambda g, u, w: gated_product(g, u, w, None), product[:3])


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 16)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_of_products_with_a_change(shape, has_bias):
    """Of x, what is dropped of it, the bias and both factors; the weight is frozen."""
    a, b, bias = drawn(2, shape[-1]), drawn(5, 2), drawn(5) if has_bias else None
    weight = drawn(5, shape[-1]).detach()
    change = [each for each in (a, b, bias) if each is not None]

    def of_one(x, a, b, *bias):
        return changed_linear(x, None, weight, bias[0] if bias else None, LowRank(a, b, 0.7))

    def of_dropped(x, dropped, a, b, *bias):
        return changed_linear(x, dropped, weight, bias[0] if bias else None, LowRank(a, b, 0.7))

    def of_gated(gate, up, a, b, *bias):
        return gated_product(gate, up, weight, bias[0] if bias else None, LowRank(a, b, 0.7))

    assert torch.autograd.gradcheck(of_one, (drawn(*shape), *change))
    assert torch.autograd.gradcheck(of_dropped, (drawn(*shape), drawn(*shape), *change))
    assert torch.autograd.gradcheck(of_gated, (drawn(*shape), drawn(*shape), *change))
    x = drawn(*shape)
    plain = F.linear(x, weight + 0.7 * b @ a, bias)
    torch.testing.assert_close(of_one(x, *change), plain)
    torch.testing.assert_close(of_gated(x, x, *change), F.linear(F.silu(x) * x, weight + 0.7 * b @ a, bias))


@pytest.mark.parametrize("turned", [2, 6, 8])
def test_rotation_turns_pairs_and_back(turned):
    x, angles = drawn(5, 3, 8), drawn(5, turned // 2).detach()
    angles = torch.cat((angles, angles), -1)
    cos, sin = angles.cos(), angles.sin()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))
    pair = torch.complex(x[..., : turned // 2], x[..., turned // 2 : turned])
    by = torch.polar(torch.ones_like(angles), angles)[:, None, : turned // 2]
    expected = torch.cat(((pair * by).real, (pair * by).imag, x[..., turned:]), -1)
    torch.testing.assert_close(rotate(x, cos, sin), expected)
    narrow = x.detach().bfloat16()
    assert torch.equal(rotate(narrow, cos, sin), rotate(narrow.float(), cos, sin).bfloat16())


@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_values_and_gradients_as_autograd_gives_them(frozen):
    pairs = (
        (rms_norm, plain_norm, (9, 33), (33,), (1e-6,)),
        (gated_silu, lambda g, u: F.silu(g) * u, (9, 33), (9, 33), ()),
    )
    for lean, plain, first, second, more in pairs:
        found = []
        for function in (lean, plain):
            given = [drawn(*first, dtype=torch.float32), drawn(*second, dtype=torch.float32)]
            if frozen is not None:
                given[frozen].requires_grad_(False)
            out = function(*given, *more)
            out.sin().sum().backward()
            found.append((out.detach(), [each.grad for each in given]))
        (out, grads), (other, others) = found
        assert torch.equal(out, other)
        for one, two in zip(grads, others, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two)


def kept_bytes(run):
    """Bytes of the different tensors that a forward pass keeps for the backward one."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = run()
    return out, sum(kept.values())


def test_layers_that_read_one_tensor_keep_one():
    """bfloat16 layers whose products are float32 keep their input rounded: once, however many read it."""
    layers = torch.nn.ModuleList(torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16) for _ in range(3))
    x = drawn(16, 8, dtype=torch.float32)
    with computing_in_float32(layers):
        read = [kept_bytes(lambda count=count: sum(layer(x) for layer in layers[:count])) for count in (1, 3)]
        (_, alone), (out, together) = read
        assert together - alone == 2 * 8 * 8 * 2  # the other layers' weights
        assert is_plain(layers[0])
        out.square().sum().backward()
    for layer in layers:
        wide = x.detach().bfloat16().float()
        expected = (2 * out.detach()).T @ wide
        torch.testing.assert_close(layer.weight.grad.float(), expected, atol=0.02, rtol=0.01)
    layers[0].register_forward_hook(lambda *_: None)
    assert not is_plain(layers[0])


def test_a_tensor_that_changed_is_rounded_again():
    layer = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    x = torch.ones(2, 4)
    with computing_in_float32(layer):
        first = layer(x)
        x.mul_(3.0)
        (first.sum() + layer(x).sum()).backward()
    assert torch.equal(layer.weight.grad, torch.full((4, 4), 8.0, dtype=torch.bfloat16))  # two rows of 1 and of 3


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_computed_with_their_layer_as_beside_it(dtype, dropout):
    """A listener at a layer has it called by itself: loss and gradients are the same; less is kept without one."""
    found = []
    for listens in (False, True):
        model = get_peft_model(tiny_model(dtype=dtype), LoraConfig(r=3, target_modules="all-linear", use_rslora=True,
                                                                   lora_dropout=dropout))  # fmt: skip
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
            if listens and name.endswith("base_layer.weight"):
                model.get_submodule(name.removesuffix(".weight")).register_forward_hook(lambda *_: None)
        ids = torch.arange(1, 31).view(2, 15)
        number_places(model)
        with computing_in_float32(model), drawing(1, 2, (4, 5), (15, 15)):
            loss, kept = kept_bytes(lambda model=model, ids=ids: model.train()(input_ids=ids, labels=ids).loss)
            loss.backward()
        found.append((loss.detach(), kept, [each.grad for each in model.parameters() if each.requires_grad]))
    (loss, kept, grads), (other, others_kept, other_grads) = found
    torch.testing.assert_close(loss, other)
    assert dropout or kept < others_kept  # what the MLP multiplies: dropped or not, it is one more
    for one, two in zip(grads, other_grads, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6 if dtype == torch.float32 else 2e-3, rtol=1e-4)


def test_the_kernel_is_asked_once_even_inside_a_checkpointed_block():
    ids = torch.arange(1, 31).view(2, 15)
    found = []
    for is_asked in (True, False):
        if is_asked:
            takes_groups.cache_clear()
        model = tiny_model().train()
        model.gradient_checkpointing_enable()
        model(input_ids=ids, labels=ids).loss.backward()
        found.append([each.grad for each in model.parameters()])
    assert takes_groups.cache_info().misses == 1
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("window", [0, 2])
def test_heads_of_a_group_read_their_key_head_where_the_kernel_can(monkeypatch, window):
    """Copies of the key heads or none: loss and gradients are the same; without copies less is kept."""
    assert not takes_groups("cuda")
    found = []
    for takes in {takes_groups("cpu"), False}:
        monkeypatch.setattr("martlet.nn.attention.takes_groups", lambda device_type, takes=takes: takes)
        model = tiny_model("mistral", sliding_window=window or None).train()
        ids = torch.arange(1, 31).view(2, 15)
        loss, kept = kept_bytes(lambda model=model, ids=ids: model(input_ids=ids, labels=ids).loss)
        loss.backward()
        found.append((takes, loss.detach(), kept, [each.grad for each in model.parameters()]))
    for _, loss, _, grads in found[1:]:
        torch.testing.assert_close(loss, found[0][1])
        for one, two in zip(grads, found[0][3], strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)
    kept = {takes: kept for takes, _, kept, _ in found}
    assert kept.get(True, 0) < kept[False]
