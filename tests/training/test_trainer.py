"""The path of a user's script: what a Trainer gives is what a plain torch loop, and Hugging Face's Trainer, give."""

import pytest
import torch
from tiny import assert_near, make_rows, tiny_model, weights_of

from martlet.training import Trainer, TrainingArguments


def train(folder, model, rows, **arguments):
    arguments = {"learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "report_html": False} | arguments
    trainer = Trainer(model, TrainingArguments(folder, **arguments), train_dataset=rows)
    trainer.train()
    return trainer


def losses_of(trainer):
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


def test_a_plain_loop_gives_the_same_weights(tmp_path):
    model, other, rows = tiny_model(), tiny_model(), make_rows()
    trainer = train(
        tmp_path, model, rows, per_device_train_batch_size=4, max_steps=5, train_sampling_strategy="sequential",
        max_grad_norm=0.5, weight_decay=0.1,
    )  # fmt: skip

    decays = [each for each in other.parameters() if each.ndim > 1]
    norms = [each for each in other.parameters() if each.ndim == 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    losses = []
    for step in range(5):
        total, count = 0.0, 0
        for row in rows[step % 3 * 4 :][:4]:
            ids = torch.tensor(row["input_ids"])
            logits = other(ids[None]).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
            count += len(ids) - 1
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (5 - step) / 5
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses_of(trainer) == pytest.approx(losses, rel=1e-5)
    assert_near(weights_of(model), weights_of(other), atol=5e-5)


@pytest.mark.parametrize("batch, accumulation", [(4, 1), (2, 3)])
def test_hugging_face_gives_the_same_run(tmp_path, batch, accumulation):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model, rows = tiny_model(), make_rows(24)
    model.save_pretrained(tmp_path / "start")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32)
    shared = dict(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=2,
        learning_rate=5e-3, warmup_steps=2, lr_scheduler_type="cosine", logging_steps=1, save_strategy="no",
        train_sampling_strategy="sequential", weight_decay=0.01, optim="adamw_torch", report_to="none",
    )  # fmt: skip
    ours = train(tmp_path / "ours", model, rows, **shared)

    def collate(features):
        width = max(len(each["input_ids"]) for each in features)
        ids = [each["input_ids"] + [0] * (width - len(each["input_ids"])) for each in features]
        labels = [each["input_ids"] + [-100] * (width - len(each["input_ids"])) for each in features]
        mask = [[int(label != -100) for label in row] for row in labels]
        named = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {name: torch.tensor(value) for name, value in named.items()}

    arguments = transformers.TrainingArguments(str(tmp_path / "theirs"), use_cpu=True, disable_tqdm=True, **shared)
    other = transformers.Trainer(theirs, arguments, data_collator=collate, train_dataset=rows)
    other.train()

    def history(trainer):
        return [each for each in trainer.state.log_history if "loss" in each]

    assert len(history(ours)) == len(history(other))
    for mine, yours in zip(history(ours), history(other), strict=True):
        for name in ("loss", "learning_rate", "grad_norm", "epoch", "step"):
            assert float(mine[name]) == pytest.approx(float(yours[name]), rel=2e-4), (name, mine, yours)
    theirs.save_pretrained(tmp_path / "end")
    from martlet import AutoModelForCausalLM

    assert_near(weights_of(model), weights_of(AutoModelForCausalLM.from_pretrained(tmp_path / "end")), atol=1e-4)


def test_the_run_is_the_same_however_a_step_is_cut(tmp_path):
    weights = []
    for batch, accumulation in ((8, 1), (1, 8), (2, 4)):
        model = tiny_model()
        train(
            tmp_path / str(batch), model, make_rows(20), per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation, max_steps=3, optim="sgd",
        )  # fmt: skip
        weights.append(weights_of(model))
    assert_near(weights[0], weights[1], atol=1e-6)
    assert_near(weights[0], weights[2], atol=1e-6)


def test_enumerations_are_transformers_own_words():
    import transformers

    from martlet.training import IntervalStrategy, SaveStrategy, SchedulerType

    for ours in (IntervalStrategy, SaveStrategy, SchedulerType):
        theirs = getattr(transformers.trainer_utils, ours.__name__)
        for each in ours:
            assert theirs[each.name].value == each.value
    args = TrainingArguments(
        "unused", eval_strategy=IntervalStrategy.STEPS, save_strategy=SaveStrategy.BEST,
        lr_scheduler_type=SchedulerType.COSINE, metric_for_best_model="loss",
    )  # fmt: skip
    assert (type(args.eval_strategy), args.eval_strategy, args.save_strategy) == (str, "steps", "best")
    assert args.lr_scheduler_type == "cosine"
