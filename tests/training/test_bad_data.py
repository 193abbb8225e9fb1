"""Rows that cannot be learnt from, runs that cannot go on: each its own error, and what was good stays good."""

import errno
import os
import resource

import pytest
import torch
from tiny import make_rows, tiny_model
from torch import nn

import martlet
from martlet import AutoConfig
from martlet.datasets import Dataset, DatasetDict
from martlet.errors import ArgumentError, LossError, SaveError, TrainingDataError, UnsupportedError
from martlet.training import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from martlet.training.checkpoints import check_checkpoint


def train(folder, rows, model=None, **given):
    shared = {"per_device_train_batch_size": 2, "max_steps": 2, "report_html": False, "disable_tqdm": True}
    callbacks = given.pop("callbacks", None)
    eval_rows, metrics = given.pop("eval_dataset", None), given.pop("compute_metrics", None)
    args = TrainingArguments(folder, **{**shared, "save_strategy": "no", **given})
    trainer = Trainer(
        model or tiny_model(), args, train_dataset=rows, eval_dataset=eval_rows, callbacks=callbacks,
        compute_metrics=metrics,
    )  # fmt: skip
    trainer.train()
    return trainer


IDS = [3, 4, 5]


@pytest.mark.parametrize(
    "rows, says",
    [
        ([], "must have rows"),
        ([{"input_ids": []}] * 4, "must have a token"),
        ([{"input_ids": IDS, "labels": [-100, -100, -100]}] * 4, "must have a supervised token"),
        ([{"input_ids": [3]}] * 4, "must have a supervised token"),
        ([{"input_ids": IDS, "labels": [3, 4, 61]}] * 4, "below 61, or -100; found 61"),
        ([{"input_ids": IDS, "labels": [3, -4, 5]}] * 4, "below 61, or -100; found -4"),
        ([{"input_ids": IDS, "labels": [3, 4]}] * 4, "a label for each token"),
        ([{"input_ids": [3, 61]}] * 4, "below the vocabulary of 61; found 61"),
        ([{"input_ids": list(range(60)) + [1] * 5}] * 4, "context of 64 tokens; found 65"),
        ([{"input_ids": "abc"}] * 4, "flat list of whole numbers"),
        ([{"input_ids": [0.5, 1.0]}] * 4, "flat list of whole numbers"),
        ([{"input_ids": [[1], [2, 3]]}] * 4, "flat list of whole numbers"),
        ([{"words": "a b"}] * 4, "has no column the model takes; found words"),
        ([{"text": "a b"}] * 4, "there is no tokenizer"),
        ([3, 4, 5, 6], "must be a dict of columns"),
        ([{"input_ids": IDS, "labels": IDS}, {"input_ids": IDS}] * 2, "every row must have the column 'labels'"),
        ([{"input_ids": IDS, "labels": ["a", "b", "c"]}] * 4, "column 'labels': must hold numbers"),
    ],
)
def test_rows_that_cannot_be_learnt(tmp_path, rows, says):
    with pytest.raises(TrainingDataError, match=says):
        train(tmp_path, rows, per_device_train_batch_size=4, max_steps=1)


def test_a_stream_says_its_steps(tmp_path):
    with pytest.raises(TrainingDataError, match="max_steps"):
        train(tmp_path, iter(make_rows()), max_steps=-1)


def test_a_stream_that_ends_before_a_step(tmp_path):
    class Nothing:
        def __iter__(self):
            return iter(())

    with pytest.raises(TrainingDataError, match="too few"):
        train(tmp_path, Nothing())


def test_a_metric_that_does_not_exist(tmp_path):
    with pytest.raises(ArgumentError, match="There are epoch, eval_accuracy, eval_loss"):
        train(
            tmp_path, make_rows(), eval_dataset=make_rows(3), eval_strategy="steps", eval_steps=1, save_steps=1,
            save_strategy="steps", metric_for_best_model="f1", load_best_model_at_end=True,
            compute_metrics=lambda each: {"accuracy": 1.0},
        )  # fmt: skip


def test_a_loss_that_is_not_finite_names_its_samples(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[60] = float("nan")
        model.lm_head.weight.data = model.lm_head.weight.detach().nan_to_num()
    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6]}, {"input_ids": [7, 60, 8]}, {"input_ids": [9, 1, 2]}]
    with pytest.raises(LossError, match=r"finite; found nan\. Samples 2 of rank 0"):
        train(tmp_path, rows, model, per_device_train_batch_size=4)


def test_a_loss_that_explodes(tmp_path):
    class Jumps(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return loss * (1e4 if self.state.global_step == 7 else 1)

    args = TrainingArguments(tmp_path, max_steps=9, report_html=False, disable_tqdm=True, save_strategy="no",
                             per_device_train_batch_size=2)  # fmt: skip
    trainer = Jumps(tiny_model(), args, train_dataset=make_rows(40))
    with pytest.raises(LossError, match=r"step 8: .*100 times the median"):
        trainer.train()
    assert len([each for each in trainer.state.log_history if "loss" in each]) == 0


def test_a_disk_that_fills_up_while_saving(tmp_path, monkeypatch):
    """The checkpoint before is whole, nothing half written stays, and the error says what the system said."""
    import martlet.training.runs as runs

    save, calls = runs.save_tree, []

    def full(folder, name, tree):
        calls.append(name)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(folder, name, tree)

    monkeypatch.setattr(runs, "save_tree", full)
    with pytest.raises(SaveError, match="ENOSPC"):
        train(tmp_path, make_rows(), save_strategy="steps", save_steps=1, max_steps=3)
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["checkpoint-1"]
    check_checkpoint(tmp_path / "checkpoint-1")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_files_that_cannot_grow(tmp_path, share):
    """The system's own limit on a file, at several places in it: what was saved before stays good."""
    held = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Limit(TrainerCallback):
        def on_save(self, args, state, control, **more):
            (tmp_path / "checkpoint-1" / "own.txt").write_text("beside the checkpoint's files")
            largest = max(each.stat().st_size for each in (tmp_path / "checkpoint-1").iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest * share), held[1]))

    trainer = Trainer(
        tiny_model(),
        TrainingArguments(tmp_path, save_steps=1, max_steps=3, report_html=False, disable_tqdm=True),
        train_dataset=make_rows(),
        callbacks=[Limit()],
    )
    trainer.save_model()
    good = (tmp_path / "model.safetensors").read_bytes()
    try:
        with pytest.raises(SaveError, match="EFBIG"):
            trainer.train()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(good) * share), held[1]))
        with pytest.raises(SaveError, match="EFBIG"):
            trainer.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, held)
    assert (tmp_path / "model.safetensors").read_bytes() == good
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["checkpoint-1"]
    check_checkpoint(tmp_path / "checkpoint-1")
    assert (tmp_path / "checkpoint-1" / "own.txt").is_file()
    Trainer(tiny_model(), trainer.args.but(max_steps=2), train_dataset=make_rows()).train(resume_from_checkpoint=True)
    check_checkpoint(tmp_path / "checkpoint-2")


def test_all_weights_frozen(tmp_path):
    model = tiny_model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ArgumentError, match="every one frozen"):
        train(tmp_path, make_rows(), model)


def test_sequence_to_sequence_is_named(tmp_path):
    class TinyForConditionalGeneration(nn.Module):
        def forward(self, input_ids, labels=None): ...

    with pytest.raises(UnsupportedError, match="no such family exists"):
        train(tmp_path, make_rows(), TinyForConditionalGeneration())


def test_a_model_that_cannot_checkpoint_activations(tmp_path):
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x, labels=None):
            return {"loss": ((self.weight * x).sum(-1) - labels).square().mean()}

    with pytest.raises(UnsupportedError, match="gradient_checkpointing"):
        train(tmp_path, [{"x": [1.0, 2.0, 3.0], "labels": 1.0}] * 4, Line(), gradient_checkpointing=True)


CLASSES = {"num_labels": 3}


def small_bert(head="SequenceClassification", **more):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("bert", vocab_size=61, max_position_embeddings=40, **sizes, **more)
    made = getattr(martlet, f"AutoModelFor{head}").from_config(config)
    return made


def two(**columns):
    """What a collator of one's own makes of two rows."""
    return lambda rows: {"input_ids": torch.full((2, 3), 7), "labels": torch.ones(2, dtype=torch.long), **columns}


@pytest.mark.parametrize(
    "head, more, label, says",
    [
        ("SequenceClassification", CLASSES, 3, "below 3, or -100; found 3"),
        ("SequenceClassification", CLASSES, -1, "below 3, or -100; found -1"),
        ("SequenceClassification", CLASSES, 1.0, r"ids of classes.*; found float32 1\. .*num_labels=1"),
        ("SequenceClassification", CLASSES, "1", "must hold numbers; found str '1'"),
        ("SequenceClassification", CLASSES, None, "must have a label"),
        ("SequenceClassification", CLASSES, [1, 2], r"one class a row; found shape \[2, 2\]"),
        ("SequenceClassification", {**CLASSES, "problem_type": "multi_label_classification"}, [1.0, 0.0], "3 zeros"),
        ("SequenceClassification", {**CLASSES, "problem_type": "multi_label_classification"}, [1.0, 0, 2.0], "found 2"),
        ("SequenceClassification", {"num_labels": 1}, float("nan"), "one finite number a row; found nan"),
        ("SequenceClassification", {"num_labels": 1}, [0.1, 0.2], r"one finite number a row; found shape \[2, 2\]"),
        ("TokenClassification", CLASSES, [1, 2], r"a label for each token; found \[2, 2\] for ids of \[2, 3\]"),
        ("TokenClassification", CLASSES, 1, r"a label for each token; found \[2\] for ids"),
        ("TokenClassification", CLASSES, [0, 1, 3], "below 3, or -100; found 3"),
        ("TokenClassification", CLASSES, ["B", "O", "O"], "must hold numbers"),
        ("MaskedLM", {}, [3, 61, -100], "below 61, or -100; found 61"),
        ("MaskedLM", {}, [3, 6], "a label for each token"),
    ],
)
def test_labels_that_cannot_be_meant(tmp_path, head, more, label, says):
    with pytest.raises(TrainingDataError, match=says):
        train(tmp_path, [{"input_ids": IDS, "label": label}] * 4, small_bert(head, **more))


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"input_ids": torch.full((2, 3), 61)}, "input_ids: must be at least 0 and below 61; found 61"),
        ({"input_ids": torch.full((2, 41), 7)}, "context of 40 tokens; found a row of 41"),
        ({"token_type_ids": torch.full((2, 3), 2)}, "token_type_ids: must be at least 0 and below 2; found 2"),
        ({"token_type_ids": torch.zeros(2, 2, dtype=torch.long)}, "token_type_ids: must have one for each token"),
    ],
)
def test_batches_that_a_model_cannot_read(tmp_path, columns, says):
    args = TrainingArguments(tmp_path, max_steps=1, report_html=False, disable_tqdm=True, save_strategy="no")
    trainer = Trainer(small_bert(**CLASSES), args, train_dataset=[{"input_ids": IDS}] * 2, data_collator=two(**columns))
    with pytest.raises(TrainingDataError, match=says):
        trainer.train()


def test_padding_beyond_the_context_is_no_token(tmp_path):
    """A collator may pad as wide as it likes: what counts is a row's real tokens."""
    mask = torch.zeros(2, 50, dtype=torch.long)
    mask[:, :3] = 1
    args = TrainingArguments(tmp_path, max_steps=1, report_html=False, disable_tqdm=True, save_strategy="no")
    collator = two(input_ids=torch.full((2, 50), 7), attention_mask=mask)
    Trainer(small_bert(**CLASSES), args, train_dataset=[{"input_ids": IDS}] * 2, data_collator=collator).train()


def test_splits_are_no_dataset(tmp_path):
    splits = DatasetDict(train=Dataset.from_list(make_rows()))
    with pytest.raises(TrainingDataError, match=r"must be one dataset; found splits train.*\['train'\]"):
        train(tmp_path, splits)


def test_evaluations_without_rows_are_told_before_a_step(tmp_path):
    seen = []

    class Steps(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            seen.append(state.global_step)

    with pytest.raises(ArgumentError, match="eval_dataset for eval_strategy='epoch'"):
        train(tmp_path, make_rows(), eval_strategy="epoch", callbacks=[Steps()])
    assert not seen


EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def test_a_metric_that_is_no_number(tmp_path):
    with pytest.raises(ArgumentError, match="must be a number; found accuracy 'high'"):
        train(
            tmp_path, make_rows(), eval_dataset=make_rows(3), metric_for_best_model="accuracy", **EACH_STEP,
            load_best_model_at_end=True, compute_metrics=lambda each: {"accuracy": "high"},
        )  # fmt: skip


def test_nan_is_never_the_best_metric(tmp_path):
    given = iter([float("nan"), 0.2, 0.4, float("nan")])
    trainer = train(
        tmp_path, make_rows(), eval_dataset=make_rows(3), metric_for_best_model="accuracy", max_steps=4, **EACH_STEP,
        load_best_model_at_end=True, compute_metrics=lambda each: {"accuracy": next(given)},
        callbacks=[EarlyStoppingCallback(2)],
    )  # fmt: skip
    assert trainer.state.best_metric == 0.4 and trainer.state.best_global_step == 3


def test_a_loss_without_weights(tmp_path):
    class Constant(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return torch.tensor(1.0)

    args = TrainingArguments(tmp_path, max_steps=1, report_html=False, disable_tqdm=True)
    with pytest.raises(ArgumentError, match="compute_loss: must depend on weights"):
        Constant(tiny_model(), args, train_dataset=make_rows()).train()


def test_no_room_for_a_lock_or_a_log(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(SaveError, match="ENOSPC"):
            train(tmp_path, make_rows())
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    monkeypatch.setattr(writer, "flush", full)
    with pytest.raises(SaveError, match=r"runs: could not be written.*ENOSPC"):
        train(tmp_path, make_rows(), report_to="tensorboard", logging_steps=1)
