"""Lean formulas beside what autograd makes of the plain ones: values bit for bit, gradients within rounding."""

import pytest
import torch
import torch.nn.functional as F

from martlet.nn.compute import computing_in_float32, is_plain
from martlet.nn.lean import gated_product, gated_silu, rms_norm


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
