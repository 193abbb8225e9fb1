"""What surrounds the steps: evaluation, prediction, callbacks, best models, overrides, and what a run shows."""

import json

import numpy as np
import pytest
import torch
from tiny import Words, assert_near, make_rows, tiny_model, weights_of
from torch import nn

from martlet import AutoModelForCausalLM
from martlet.errors import ArgumentError, UnsupportedError
from martlet.training import (
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from martlet.training.callbacks import EVENTS


def arguments(folder, **given):
    shared = {"per_device_train_batch_size": 4, "max_steps": 4, "report_html": False, "disable_tqdm": True}
    return TrainingArguments(folder, **{**shared, "save_strategy": "no", "learning_rate": 1e-2, **given})


def make(folder, model=None, **given):
    names = ("eval_dataset", "callbacks", "compute_metrics", "preprocess_logits_for_metrics", "data_collator", "kind",
             "compute_loss_func", "optimizers", "processing_class", "model_init", "train_dataset")  # fmt: skip
    own = {name: given.pop(name) for name in names if name in given}
    own.setdefault("train_dataset", make_rows())
    kind = own.pop("kind", Trainer)
    if "model_init" not in own:
        own["model"] = model if model is not None else tiny_model()
    return kind(args=arguments(folder, **given), **own)


def test_evaluation_is_a_mean_over_tokens(tmp_path):
    model, rows = tiny_model(), make_rows(7, seed=4)
    metrics = make(tmp_path, model, eval_dataset=rows, per_device_eval_batch_size=3).evaluate()
    total = count = 0
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        total += nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
        count += len(ids) - 1
    assert metrics["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    named = make(tmp_path, model, eval_dataset={"a": rows, "b": rows[:2]}).evaluate()
    assert named["eval_a_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    assert "eval_b_loss" in named


def test_predictions_and_metrics(tmp_path):
    seen = {}

    def metrics(prediction):
        predictions, labels = prediction
        seen["shapes"] = predictions.shape, labels.shape
        real = labels[:, 1:] != -100
        return {"accuracy": float((predictions[:, :-1] == labels[:, 1:])[real].mean())}

    rows = make_rows(5, seed=2)
    trainer = make(
        tmp_path, compute_metrics=metrics, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        per_device_eval_batch_size=2,
    )  # fmt: skip
    output = trainer.predict(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    assert seen["shapes"] == ((5, longest), (5, longest))
    assert 0 <= output.metrics["test_accuracy"] <= 1
    with torch.no_grad():
        first = trainer.model(torch.tensor([rows[0]["input_ids"]])).logits.argmax(-1)[0]
    assert np.array_equal(output.predictions[0, : len(first)], first.numpy())


def test_every_event_is_called_in_hugging_faces_order(tmp_path):
    calls = []

    class Listens(TrainerCallback):
        pass

    for event in EVENTS:
        setattr(Listens, event, lambda self, args, state, control, event=event, **more: calls.append(event))
    make(
        tmp_path, callbacks=[Listens], eval_dataset=make_rows(3), max_steps=2, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=2, gradient_accumulation_steps=2, logging_steps=1,
    ).train()  # fmt: skip
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"]
    evaluation = ["on_prediction_step", "on_log", "on_evaluate"]
    short = [each for each in step if each != "on_substep_end"]  # the rows that are left fill one batch
    assert calls == [
        "on_init_end", "on_train_begin", "on_epoch_begin", *step, *evaluation, *short, *evaluation, "on_save",
        "on_epoch_end", "on_log", "on_train_end",
    ]  # fmt: skip


def test_the_best_model_comes_back(tmp_path):
    rows = make_rows(6, seed=8)
    trainer = make(
        tmp_path, eval_dataset=rows, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, max_steps=10, learning_rate=0.3, save_total_limit=1, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0, callbacks=[EarlyStoppingCallback(2)],
    )  # fmt: skip
    trainer.train()
    losses = {each["step"]: each["eval_loss"] for each in trainer.state.log_history if "eval_loss" in each}
    best = min(losses, key=losses.get)
    assert trainer.state.best_metric == losses[best]
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{best}")
    assert_near(weights_of(trainer.model), weights_of(loaded), rtol=0, atol=0)
    assert len(list(tmp_path.glob("checkpoint-*"))) <= 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-6)


@pytest.mark.parametrize("uses_count", [True, False])
def test_a_loss_of_ones_own(tmp_path, uses_count):
    """Whether or not it divides by the number of items, the run is the same as without it."""

    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            scores, labels = outputs.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
            loss = nn.functional.cross_entropy(scores, labels, reduction="sum" if uses_count else "mean")
            loss = loss / num_items_in_batch if uses_count else loss
            return (loss, outputs) if return_outputs else loss

    plain, own = make(tmp_path / "a"), make(tmp_path / "b", kind=Own, gradient_accumulation_steps=2,
                                            per_device_train_batch_size=2)  # fmt: skip
    plain.train()
    own.train()
    assert_near(weights_of(plain.model), weights_of(own.model), atol=2e-5)


def test_a_loss_function_and_an_optimizer_of_ones_own(tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        scores = outputs.logits[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(scores, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch

    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    own = make(tmp_path / "a", model, compute_loss_func=loss, optimizers=(optimizer, schedule))
    own.train()
    plain = make(tmp_path / "b")
    plain.train()
    assert_near(weights_of(plain.model), weights_of(own.model), atol=2e-5)


def test_a_module_of_any_kind(tmp_path):
    """Not one of ours: it returns its loss in a dict, and its rows are tensors of a torch Dataset."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Linear(3, 1)

        def forward(self, x, labels=None):
            out = self.weight(x)[:, 0]
            return {"loss": nn.functional.mse_loss(out, labels), "logits": out}

    class Points(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            x = torch.tensor([index / 16, 1.0, -index / 8])
            return {"x": x, "labels": x.sum(), "unused": "text"}

    torch.manual_seed(0)
    trainer = make(tmp_path, Line(), train_dataset=Points(), max_steps=60, learning_rate=0.05, eval_dataset=Points())
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 20


def test_frozen_weights_keep_no_gradient_and_no_state(tmp_path):
    model = tiny_model()
    for parameter in model.model.layers[0].parameters():
        parameter.requires_grad_(False)
    before = weights_of(model)
    trainer = make(tmp_path, model)
    trainer.train()
    frozen = {name for name in before if name.startswith("model.layers.0.")}
    for name, each in weights_of(model).items():
        assert torch.equal(each, before[name]) == (name in frozen), name
    assert len(trainer.optimizer.state) == len(before) - len(frozen)


@pytest.mark.parametrize(
    "option", [{"gradient_checkpointing": True, "full_determinism": True}, {"dataloader_num_workers": 2}]
)
def test_what_must_not_change_a_run(tmp_path, option):
    plain, other = (
        make(tmp_path / "a", neftune_noise_alpha=5.0),
        make(tmp_path / "b", neftune_noise_alpha=5.0, **option),
    )
    plain.train()
    other.train()
    assert_near(weights_of(plain.model), weights_of(other.model), rtol=0, atol=0)


def test_narrow_weights_learn_as_wide_ones_do(tmp_path):
    """bfloat16 weights with masters, and with rounding by chance, stay near float32; their steps are not lost."""
    wide = make(tmp_path / "wide", max_steps=30, learning_rate=1e-3)
    wide.train()
    for update in ("master", "stochastic"):
        narrow = make(tmp_path / update, tiny_model(dtype=torch.bfloat16), max_steps=30, learning_rate=1e-3,
                      bf16_update=update)  # fmt: skip
        narrow.train()
        assert all(each.dtype == torch.bfloat16 for each in narrow.model.parameters())
        ours, theirs = narrow.state.log_history[-1]["train_loss"], wide.state.log_history[-1]["train_loss"]
        assert ours == pytest.approx(theirs, rel=5e-3)


def test_products_are_made_in_the_dtype_that_is_fast(tmp_path, monkeypatch):
    from martlet.training import trainer as module

    made = []
    linear = nn.functional.linear

    def noting(x, weight, bias=None):
        made.append(weight.dtype)
        return linear(x, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", noting)
    for narrow, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(module, "has_bfloat16_products", lambda device, narrow=narrow: narrow)
        made.clear()
        make(tmp_path, tiny_model(dtype=torch.bfloat16), max_steps=1).train()
        assert set(made[: len(made) // 2]) == {expected}


def test_masking_belongs_to_a_sample_and_a_step():
    from martlet.nn.draws import drawing

    rows = make_rows(6, least=12)
    collate = DataCollatorForLanguageModeling(Words())
    with drawing(1, 2, (0, 1, 2, 3, 4, 5), ()):
        together = collate(rows)
    with drawing(1, 2, (3,), ()):
        alone = collate(rows[3:4])
    width = alone["labels"].shape[1]
    assert torch.equal(together["labels"][3, :width], alone["labels"][0])
    assert torch.equal(together["input_ids"][3, :width], alone["input_ids"][0])
    assert (together["labels"] != -100).any()


def test_what_a_run_shows(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    make(
        tmp_path, report_html=True, disable_tqdm=False, logging_steps=1, report_to=["tensorboard"],
        eval_dataset=make_rows(3), eval_strategy="epoch",
    ).train()  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert page.count("<polyline") == 5
    assert "Loss (nats)" in page and "Throughput (tokens/s)" in page and "per_device_train_batch_size" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "tokens/s" in capsys.readouterr().err
    assert list((tmp_path / "runs").glob("events*"))


def test_arguments_that_are_not_ours():
    with pytest.raises(ArgumentError, match="Is learning_rate meant"):
        TrainingArguments(learning_rat=1)
    with pytest.raises(UnsupportedError, match="loss scaling"):
        TrainingArguments(fp16=True)
    with pytest.raises(UnsupportedError, match="chunked already"):
        TrainingArguments(use_liger_kernel=True)
    with pytest.raises(ArgumentError, match="Is cosine meant"):
        TrainingArguments(lr_scheduler_type="cosin")
    with pytest.raises(UnsupportedError, match="adamw_torch_fused"):
        TrainingArguments(optim="galore_adamw")
    with pytest.raises(ArgumentError, match="must be above 0"):
        TrainingArguments(num_train_epochs=0)


def test_an_override_that_would_not_be_called(tmp_path):
    class Own(Trainer):
        def _save_checkpoint(self, model, trial): ...

    with pytest.raises(UnsupportedError, match="overrides _save_checkpoint"):
        make(tmp_path, kind=Own)


def test_a_fit_again_starts_anew(tmp_path):
    trainer = make(tmp_path, model_init=tiny_model)
    first = weights_of(trainer.fit().model)
    assert_near(first, weights_of(trainer.fit().model), rtol=0, atol=0)
    trainer.save_model(tmp_path / "out")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_near(first, weights_of(saved), rtol=0, atol=0)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
