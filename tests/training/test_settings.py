"""Settings: no field is silently ignored, values of another kind have errors of their own; small names."""

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import make_rows, tiny_model

import martlet
from martlet.adapters.config import LoraConfig
from martlet.errors import ArgumentError, DatasetError, MartletError
from martlet.training import Seq2SeqTrainingArguments, Trainer, TrainingArguments

transformers = pytest.importorskip("transformers")

SOURCE = Path(martlet.__file__).parent
ODD = ("x", 3, 1.5, float("nan"), True, ["a"], {"a": 1}, object(), b"x", (1, 2), None)
# for scripts to read, as in transformers
TOLD = {"do_train", "do_eval", "do_predict"}
# settled in arguments.py into the fields or methods that are read
SETTLED = {"per_device_train_batch_size", "per_device_eval_batch_size", "warmup_steps", "warmup_ratio",
           "activation_checkpointing", "group_by_length"}  # fmt: skip


def read_names(folder, but):
    names = set()
    for path in folder.rglob("*.py"):
        if path.name != but:
            names |= {each.attr for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Attribute)}
    return names


def test_every_argument_is_read():
    names = read_names(SOURCE / "training", "arguments.py")
    assert {each.name for each in dataclasses.fields(Seq2SeqTrainingArguments)} - names == TOLD | SETTLED


@pytest.mark.parametrize("kind", [Seq2SeqTrainingArguments, LoraConfig])
def test_values_of_another_kind_are_errors_of_their_own(kind, tmp_path):
    refused = 0
    for each in dataclasses.fields(kind):
        for value in ODD:
            if each.name == "generation_config" and value == "x":
                continue  # a name to look up
            given = {each.name: value} if kind is LoraConfig else {"output_dir": str(tmp_path), each.name: value}
            try:
                kind(**given)
            except MartletError:
                refused += 1
    assert refused > 7 * len(dataclasses.fields(kind)) // 2


@pytest.mark.parametrize("given, says", [
    ({"bf16": "no"}, "bf16: must be True or False"),
    ({"warmup_ratio": "0.1"}, "warmup_ratio: must be a number or None"),
    ({"run_name": 3}, "run_name: must be a text or None"),
    ({"include_for_metrics": 3}, "include_for_metrics: must be a list of names"),
])  # fmt: skip
def test_what_is_said(given, says):
    with pytest.raises(ArgumentError, match=says):
        TrainingArguments(**given)


def test_what_transformers_takes_too():
    args = TrainingArguments(include_for_metrics=None, bf16=0, label_names="labels", include_num_input_tokens_seen=True)
    assert (args.include_for_metrics, args.bf16, args.label_names) == ([], False, ["labels"])
    assert args.include_num_input_tokens_seen == "all"


def test_printed_logs(tmp_path, capsys):
    args = TrainingArguments(str(tmp_path), max_steps=1, logging_steps=1, disable_tqdm=True, report_html=False,
                             save_strategy="no", include_num_input_tokens_seen="all")  # fmt: skip
    Trainer(tiny_model(), args, train_dataset=make_rows(), callbacks=[martlet.PrinterCallback]).train()
    first = ast.literal_eval(capsys.readouterr().out.splitlines()[0])
    assert set(first) >= {"loss", "learning_rate", "epoch", "num_input_tokens_seen"}
    assert first["loss"] == f"{float(first['loss']):.4g}"


def test_choices_are_padded_as_by_transformers():
    words = [*"abcdefgh", "[PAD]", "[UNK]"]
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    ours = martlet.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    rows = [{**dict(ours(["a b c", "d"])), "label": 1}, {**dict(ours(["e", "f g"])), "label": 0}]
    rows = [{name: row[name] for name in ("input_ids", "attention_mask", "label")} for row in rows]
    made = martlet.DataCollatorForMultipleChoice(ours)(rows)
    wanted = transformers.DataCollatorForMultipleChoice(theirs)(rows)
    assert set(made) == set(wanted)
    for name, each in wanted.items():
        assert torch.equal(made[name], each), name
    rows[1]["input_ids"] = rows[1]["input_ids"][:1]
    with pytest.raises(DatasetError, match="as many choices"):
        martlet.DataCollatorForMultipleChoice(ours)(rows)


@pytest.mark.parametrize("name, given", [
    ("get_wsd_schedule", dict(num_warmup_steps=3, num_decay_steps=5, num_training_steps=15, min_lr_ratio=0.1)),
    ("get_wsd_schedule", dict(num_warmup_steps=2, num_decay_steps=3, num_stable_steps=4, decay_type="1-sqrt")),
    ("get_cosine_with_min_lr_schedule_with_warmup", dict(num_warmup_steps=3, num_training_steps=12, min_lr=0.1)),
    ("get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
     dict(num_warmup_steps=3, num_training_steps=12, min_lr_rate=0.2, warmup_lr_rate=0.3)),
])  # fmt: skip
def test_schedules_go_as_transformers(name, given):
    def rates(library):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        schedule = getattr(library, name)(optimizer, **given)
        found = []
        for _ in range(18):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    assert rates(martlet) == pytest.approx(rates(transformers), abs=1e-12)


def test_the_rate_falls_on_a_plateau():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = martlet.get_reduce_on_plateau_schedule(optimizer, patience=0, factor=0.1)
    for metric in (1.0, 1.0):
        schedule.step(metric)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_determinism_for_the_whole_process():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        martlet.enable_full_determinism(3)
        first = torch.rand(4)
        assert torch.are_deterministic_algorithms_enabled()
        martlet.enable_full_determinism(3)
        assert torch.equal(torch.rand(4), first)
    finally:
        torch.use_deterministic_algorithms(before)


def test_names_by_the_trainers_modules():
    from martlet.trainer_callback import DefaultFlowCallback
    from martlet.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput
    from martlet.training_args import ParallelMode

    found = (DefaultFlowCallback, EvalLoopOutput, PredictionOutput, TrainOutput, ParallelMode)
    assert {each.__module__.partition(".")[0] for each in found} == {"martlet"}


def test_arguments_set_by_groups(tmp_path):
    """Each method sets its group, what is left out to its default, and gives the arguments themselves back."""
    args = TrainingArguments(tmp_path)
    assert args.set_training(learning_rate=1e-3, batch_size=4, num_epochs=2) is args
    assert (args.learning_rate, args.per_device_train_batch_size, args.num_train_epochs) == (1e-3, 4, 2)
    assert args.do_train and not args.gradient_checkpointing
    args.set_evaluate(strategy="steps", steps=5, batch_size=3).set_testing(batch_size=2)
    assert (args.eval_strategy, args.eval_steps, args.per_device_eval_batch_size) == ("steps", 5, 2)
    assert args.do_eval and args.do_predict
    args.set_logging(steps=7, first_step=True).set_save(steps=10, total_limit=2)
    assert (args.logging_steps, args.save_steps, args.save_total_limit) == (7, 10, 2)
    args.set_optimizer(name="sgd", weight_decay=0.1).set_lr_scheduler(name="cosine", warmup_steps=3)
    assert (args.optim, args.weight_decay, args.learning_rate) == ("sgd", 0.1, 5e-5)
    assert (args.lr_scheduler_type, args.warmup_steps) == ("cosine", 3)
    args.set_dataloader(train_batch_size=6, drop_last=True, sampler_seed=3, pin_memory=False)
    assert (args.per_device_train_batch_size, args.dataloader_drop_last, args.data_seed) == (6, True, 3)
    with pytest.raises(ArgumentError, match="per_device_train_batch_size"):
        args.set_training(batch_size=0)
    assert args.per_device_train_batch_size == 6
