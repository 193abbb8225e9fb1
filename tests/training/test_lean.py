"""Lean formulas beside what autograd makes of the plain ones: values bit for bit, gradients within rounding."""

import pytest
import torch
import torch.nn.functional as F

from martlet.nn.lean import gated_silu, rms_norm


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
