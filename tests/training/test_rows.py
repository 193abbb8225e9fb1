"""Attention of whole rows while training: rows of one length together, beside the formula row by row."""

import pytest
import torch

from martlet.nn.attention import visible
from martlet.nn.draws import SampleDropout, drawing, uniform
from martlet.nn.ragged import ragged_rows
from martlet.nn.rows import attend_rows, attend_with_dropout, group_rows

LENGTHS = ((3, 3), (2, 5, 2, 1, 5), (1, 2, 2), (4,))
WIDTH = 4


def plain(q, k, v, kept, scale, causal):
    scores = (q @ k.transpose(1, 2)) * scale
    if causal:
        scores = scores.masked_fill(~visible(q.shape[1], q.shape[1], 0, q.device), float("-inf"))
    return (scores.softmax(-1) * kept) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_together_give_what_each_gives_alone(lengths, causal):
    """Values, and the gradients of queries, keys and values: dropout's zeros are those of each row's sample."""
    generator = torch.Generator().manual_seed(len(lengths))
    heads, total = 2, sum(lengths)
    given = [
        torch.randn(total, heads, WIDTH, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)
    ]
    dropout, samples = SampleDropout(0.4), tuple(range(5, 5 + len(lengths)))
    dropout.place = 3

    def attend(q, k, v, rows):
        t = q.shape[2]
        hidden = ~visible(t, t, 0, q.device) if causal else None
        dropped = dropout.dropped_rows(rows, (heads, t, t), q.device)
        return attend_with_dropout(q, k, v, dropped, 0.6, 0.5, hidden)

    with drawing(1, 2, samples, lengths):
        together = attend_rows(*given, ragged_rows(lengths, (0,) * len(lengths), torch.device("cpu")), attend)
        found = torch.autograd.grad(together.sin().sum(), given)
        alone, start = [], 0
        for row, t in enumerate(lengths):
            q, k, v = (each[start : start + t].transpose(0, 1) for each in given)
            kept = dropout.drop_row(torch.ones(heads, t, t, dtype=torch.float64), row)
            alone.append(plain(q, k, v, kept, 0.5, causal).transpose(0, 1).reshape(t, -1))
            start += t
    other = torch.cat(alone)
    torch.testing.assert_close(together, other, atol=1e-6, rtol=1e-5)  # scores are float32 inside
    for one, two in zip(found, torch.autograd.grad(other.sin().sum(), given), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_rows_are_laid_by_length_only_where_they_do_not_lie_so():
    groups = group_rows((2, 5, 2, 1), torch.device("cpu"))
    assert groups.rows == ((3,), (0, 2), (1,))
    assert groups.lengths == (1, 2, 5)
    assert groups.order_T.tolist() == [9, 0, 1, 7, 8, 2, 3, 4, 5, 6]
    assert groups.order_T[groups.back_T].tolist() == list(range(10))
    assert group_rows((1, 2, 2), torch.device("cpu")).order_T is None


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    dropout, x = SampleDropout(0.25), torch.ones(4000, 3, requires_grad=True)
    dropout.place = 1
    with drawing(1, 2, (7, 8), (1500, 2500)) as draws:
        out = dropout(x)
        kept = uniform(draws, 1, (3,), x.device) >= 0.25
    out.sum().backward()
    assert torch.equal(out != 0, kept)
    assert torch.equal(x.grad, out.detach())
    assert abs(float(out.detach().mean()) - 1) < 0.02
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
