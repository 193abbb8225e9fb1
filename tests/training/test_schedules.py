"""Schedules for loops of one's own: the rates of Hugging Face's functions of the same names, step for step."""

import pytest
import torch
import transformers

import martlet
from martlet.errors import ArgumentError

FUNCTIONS = {
    "get_constant_schedule": {},
    "get_constant_schedule_with_warmup": {"num_warmup_steps": 3},
    "get_linear_schedule_with_warmup": {"num_warmup_steps": 3, "num_training_steps": 20},
    "get_cosine_schedule_with_warmup": {"num_warmup_steps": 3, "num_training_steps": 20, "num_cycles": 1.5},
    "get_cosine_with_hard_restarts_schedule_with_warmup": {
        "num_warmup_steps": 2,
        "num_training_steps": 20,
        "num_cycles": 3,
    },
    "get_polynomial_decay_schedule_with_warmup": {"num_warmup_steps": 3, "num_training_steps": 20, "power": 2.0},
    "get_inverse_sqrt_schedule": {"num_warmup_steps": 3},
}
NAMED = [
    ("constant", {}),
    ("linear", {"num_warmup_steps": 2, "num_training_steps": 9}),
    (
        "cosine_with_min_lr",
        {"num_warmup_steps": 2, "num_training_steps": 9, "scheduler_specific_kwargs": {"min_lr": 0.01}},
    ),
]


def rates(library, name, *before, **keywords):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = getattr(library, name)(*before, optimizer, **keywords)
    found = []
    for _ in range(24):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rates_by_function(name):
    assert rates(martlet, name, **FUNCTIONS[name]) == pytest.approx(rates(transformers, name, **FUNCTIONS[name]))


@pytest.mark.parametrize(("schedule", "keywords"), NAMED)
def test_rates_by_name(schedule, keywords):
    theirs = rates(transformers, "get_scheduler", schedule, **keywords)
    assert rates(martlet, "get_scheduler", schedule, **keywords) == pytest.approx(theirs)
    assert rates(martlet, "get_scheduler", transformers.SchedulerType(schedule), **keywords) == pytest.approx(theirs)


def test_what_a_schedule_needs_is_said():
    with pytest.raises(ArgumentError, match=r"must name one of constant, .*; found 'cosin'"):
        rates(martlet, "get_scheduler", "cosin", num_warmup_steps=0, num_training_steps=1)
    with pytest.raises(ArgumentError, match="num_warmup_steps: is needed for 'linear'"):
        rates(martlet, "get_scheduler", "linear", num_training_steps=3)
    with pytest.raises(ArgumentError, match="num_training_steps: is needed for 'cosine'"):
        rates(martlet, "get_scheduler", "cosine", num_warmup_steps=1)
    with pytest.raises(ArgumentError, match="num_cycle"):
        rates(martlet, "get_scheduler", "linear", num_warmup_steps=0, num_training_steps=3,
              scheduler_specific_kwargs={"num_cycle": 1})  # fmt: skip
