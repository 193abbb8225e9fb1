"""What scripts written for Hugging Face's Trainer do with one: each behaviour as it is there."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn

from martlet.errors import ArgumentError, UnsupportedError
from martlet.training import Trainer, TrainerCallback, TrainingArguments


class Line(nn.Module):
    """y = a x + b, that returns tuples, as many old modules do."""

    def __init__(self, a=0.0, b=0.0, outputs=1):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))
        self.outputs = outputs

    def forward(self, input_x, labels=None, **more):
        y = input_x * self.a + self.b
        found = (y,) * self.outputs
        return found if labels is None else (nn.functional.mse_loss(y, labels), *found)


def points(count, *names):
    rng = np.random.default_rng(0)
    xs = rng.normal(size=count).astype(np.float32)
    return [{"input_x": x, "text": "a column", **{name: 2 * x + 3 for name in names or ("labels",)}} for x in xs]


def arguments(folder, **changes):
    return TrainingArguments(folder, disable_tqdm=True, report_html=False, save_strategy="no", **changes)


def made(folder, model=None, count=64, **changes):
    options = {name: changes.pop(name) for name in ("callbacks", "compute_metrics") if name in changes}
    rows = points(count)
    return Trainer(model or Line(), arguments(folder, **changes), train_dataset=rows, eval_dataset=rows, **options)


def test_a_module_that_returns_tuples(tmp_path):
    trainer = made(tmp_path, max_steps=8, learning_rate=0.5, optim="sgd")
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 4
    predictions = trainer.predict(trainer.eval_dataset).predictions
    xs = np.array([row["input_x"] for row in trainer.eval_dataset])
    np.testing.assert_allclose(predictions, trainer.model.a.item() * xs + trainer.model.b.item(), rtol=1e-5)


def test_several_outputs_and_several_labels(tmp_path):
    trainer = made(tmp_path, Line(outputs=2), label_names=["labels", "labels_2"])
    found = trainer.predict(points(10, "labels", "labels_2"))
    assert [each.shape for each in found.predictions] == [(10,)] * 2
    assert [each.shape for each in found.label_ids] == [(10,)] * 2
    assert trainer.predict([{"input_x": row["input_x"]} for row in points(5)]).label_ids is None


def test_batches_of_an_evaluation_as_they_came(tmp_path):
    seen = []
    trainer = made(
        tmp_path, eval_do_concat_batches=False, compute_metrics=lambda found: seen.append(found) or {"n": len(found[0])}
    )
    metrics = trainer.evaluate()
    assert metrics["eval_n"] == 8 and [len(each) for each in seen[0].predictions] == [8] * 8
    assert list(metrics)[:2] == ["eval_loss", "eval_n"]
    trainer.args.prediction_loss_only = True
    assert trainer.predict(trainer.eval_dataset).predictions is None


def test_an_epoch_that_a_callback_ends(tmp_path):
    class Short(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            control.should_epoch_stop = state.global_step % 3 == 0

    # the epochs are as many; a kill after the save of step 3 goes on in the second
    trainer = made(tmp_path, callbacks=[Short()], learning_rate=0.1)
    trainer.args.save_strategy, trainer.args.save_steps = "steps", 3
    whole = trainer.train()
    assert (whole.global_step, trainer.state.epoch) == (9, 2.375)
    again = made(tmp_path, callbacks=[Short()], learning_rate=0.1)
    assert again.train(resume_from_checkpoint=tmp_path / "checkpoint-3").global_step == 9
    assert torch.equal(again.model.a, trainer.model.a) and again.state.epoch == 2.375


def test_a_short_step_has_fewer_parts(tmp_path):
    class Parts(TrainerCallback):
        count = 0

        def on_substep_end(self, *_, **more):
            self.count += 1

    parts = Parts()
    made(tmp_path, callbacks=[parts], gradient_accumulation_steps=3, num_train_epochs=1).train()
    assert parts.count == 2 + 2 + 1  # 8 batches in steps of 3, 3 and 2


def test_what_callbacks_are_given(tmp_path):
    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, eval_dataloader=None, **more):
            self.seen = len(train_dataloader), len(eval_dataloader), train_dataloader.batch_size

        def on_push_begin(self, *_, **more):
            self.seen = "pushed"

    look = Look()
    trainer = made(tmp_path, callbacks=[look], count=63, max_steps=1)
    trainer.train()
    assert look.seen == (8, 8, 8)
    assert look in trainer.callback_handler.callbacks
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
    assert look.seen == "pushed"


def test_batches_to_look_at(tmp_path):
    trainer = made(tmp_path, count=20, dataloader_drop_last=True)
    batches = trainer.get_train_dataloader()
    assert len(batches) == 2 and [len(each["labels"]) for each in batches] == [8, 8]
    assert [len(each["labels"]) for each in trainer.get_eval_dataloader()] == [8, 8, 4]
    assert len(trainer.get_test_dataloader(points(3))) == 1
    with pytest.raises(ArgumentError, match="length"):
        len(trainer.get_test_dataloader(iter(points(3))))


def test_arguments_of_ones_own(tmp_path):
    @dataclasses.dataclass
    class Own(TrainingArguments):
        extra: float = 0.0
        names: list = dataclasses.field(default_factory=list)

        def __post_init__(self):
            super().__post_init__()
            self.names = [*self.names, "added"]

    args = Own(tmp_path, extra=3.0, learning_rate=1e-3, push_to_hub=False)
    assert (args.extra, args.names, args.learning_rate, args.output_dir) == (3.0, ["added"], 1e-3, str(tmp_path))
    assert dataclasses.replace(args, learning_rate=2e-3).extra == 3.0
    assert args.to_sanitized_dict()["names"] == "['added']"
    with pytest.raises(ArgumentError, match="learning_rate"):
        Own(tmp_path, lerning_rate=1.0)
    with pytest.raises(UnsupportedError, match="push_to_hub"):
        Own(tmp_path, push_to_hub=True)


@pytest.mark.parametrize(
    "given",
    [
        {"report_to": None},
        {"max_grad_norm": None},
        {"dataloader_pin_memory": False},
        {"ddp_find_unused_parameters": False},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4, "dataloader_persistent_workers": True},
        {"fsdp": ""},
        {"fsdp": "full_shard auto_wrap"},
    ],
)
def test_values_that_ask_for_what_is_done(tmp_path, given):
    args = TrainingArguments(tmp_path, **given)
    assert (args.world_size, args.process_index, args.should_save, args.n_gpu) == (1, 0, True, 0)
    assert args.device == torch.device("cpu")


@pytest.mark.parametrize(
    "given",
    [
        {"dataloader_prefetch_factor": 2},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"fsdp": "shard_grad_op"},
        {"gradient_checkpointing_kwargs": {"context_fn": None}},
    ],
)
def test_values_that_cannot_be(tmp_path, given):
    with pytest.raises((ArgumentError, UnsupportedError), match=next(iter(given))):
        TrainingArguments(tmp_path, **given)


def test_a_model_made_anew(tmp_path):
    trainer = Trainer(model_init=lambda trial: Line(), args=arguments(tmp_path, max_steps=2), train_dataset=points(16))
    trainer.train(None, None, ["hidden"])
    with pytest.raises(UnsupportedError, match="trial"):
        trainer.train(trial={"learning_rate": 1})


def test_which_weights_decay(tmp_path):
    transformers = pytest.importorskip("transformers.trainer_pt_utils")

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm, self.ln_f = nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3)
            self.bias, self.scale = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(4))
            self.q_norm, self.table = nn.Linear(2, 2), nn.Embedding(3, 3)

    model = Mixed()
    trainer = Trainer(model, arguments(tmp_path, weight_decay=0.1))
    groups = trainer.create_optimizer().param_groups
    names = {each: name for name, each in model.named_parameters()}
    theirs = transformers.get_parameter_names(
        model, [nn.LayerNorm], [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    )
    assert {names[each] for each in groups[0]["params"]} == set(theirs)
    assert trainer.get_optimizer_group(model.bias)["weight_decay"] == 0.0


def test_adafactor_is_hugging_faces():
    from transformers.optimization import Adafactor as Theirs

    from martlet.training.adafactor import Adafactor

    torch.manual_seed(random.randint(0, 99))
    start = [torch.randn(5, 7), torch.randn(4), torch.randn(2, 3, 4), torch.tensor(0.5)]
    ours, theirs = ([nn.Parameter(each.clone()) for each in start] for _ in range(2))
    options = {"lr": 0.03, "weight_decay": 0.1}
    mine = Adafactor(ours, **options)
    other = Theirs(theirs, scale_parameter=False, relative_step=False, **options)
    for _ in range(5):
        for own, their in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            their.grad = own.grad.clone()
        mine.step()
        other.step()
    for own, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=1e-5, atol=1e-6)
