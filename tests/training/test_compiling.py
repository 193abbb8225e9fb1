"""`torch_compile`: compiled once for all lengths, the same run, exact when it goes on; what cannot is named."""

import shutil

import pytest
import torch
from tiny import assert_equal, assert_near, make_rows, tiny_model, weights_of
from torch import nn

from martlet.errors import ArgumentError, MissingDependencyError, UnsupportedError
from martlet.training import LoraConfig, Trainer, TrainerCallback, TrainingArguments, get_peft_model

# torch's compiler hides its own warnings from people, and not from pytest's errors
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")


def run(folder, model=None, stop=None, resume=None, **changes):
    args = TrainingArguments(folder, **{"per_device_train_batch_size": 3, "max_steps": 4, "save_steps": 2,
        "learning_rate": 1e-2, "report_html": False, "disable_tqdm": True, **changes})  # fmt: skip

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            control.should_training_stop = state.global_step == stop

    trainer = Trainer(model or tiny_model(), args, train_dataset=make_rows(12), callbacks=[Stop()])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@needs_compiler
def test_a_compiled_run_is_the_run_and_goes_on_exactly(tmp_path):
    from torch._dynamo.utils import counters

    counters.clear()
    plain, whole = run(tmp_path / "plain"), run(tmp_path / "whole", torch_compile=True)
    assert counters["stats"]["unique_graphs"] == 1  # of all blocks and lengths
    assert_near(weights_of(plain.model), weights_of(whole.model))
    run(tmp_path / "part", stop=2, torch_compile=True)
    rest = run(tmp_path / "part", resume=True, torch_compile=True)
    assert_equal(weights_of(whole.model), weights_of(rest.model))


@needs_compiler
def test_adapters_and_their_dropout_are_compiled_around(tmp_path):
    def adapted():
        torch.manual_seed(0)
        return get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5))

    changes = {"gradient_checkpointing": True, "max_steps": 2, "save_strategy": "no"}
    plain = run(tmp_path / "plain", adapted(), **changes)
    ours = run(tmp_path / "ours", adapted(), torch_compile_backend="eager", **changes)
    assert ours.args.torch_compile
    assert_near(weights_of(plain.model), weights_of(ours.model))
    assert not any("forward" in vars(each) for each in ours.model.modules())


def test_what_is_not_compiled(tmp_path, monkeypatch):
    class Line(nn.Linear):
        def forward(self, x, labels=None):
            return {"loss": super().forward(x).square().mean()}

    args = TrainingArguments(tmp_path, torch_compile=True, report_html=False, disable_tqdm=True)
    with pytest.raises(UnsupportedError, match="blocks of martlet's models"):
        Trainer(Line(2, 1), args, train_dataset=[{"x": [1.0, 2.0]}]).train()
    monkeypatch.setenv("CXX", "no-such-compiler")
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    import torch._inductor.cpp_builder as builder

    builder.get_cpp_compiler.cache_clear() if hasattr(builder.get_cpp_compiler, "cache_clear") else None
    with pytest.raises(MissingDependencyError, match="C\\+\\+ compiler"):
        run(tmp_path / "none", torch_compile=True)
    with pytest.raises((ArgumentError, RuntimeError), match="backend"):
        run(tmp_path / "bad", torch_compile_backend="nothing-like-it")
