"""Every head learns through a Trainer, and its run in parts is the run in one."""

import pytest
import torch
from test_resume import Dies
from tiny import SIZES, Words, assert_equal, make_rows, weights_of

import martlet
from martlet.errors import TrainingDataError
from martlet.training import DataCollatorForLanguageModeling, DataCollatorForMultipleChoice, Trainer, TrainingArguments

BERT = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}


def rows_of(task):
    rows = make_rows(16)
    for number, row in enumerate(rows):
        ids = row["input_ids"]
        match task:
            case "classes":
                row["label"] = number % 3
            case "several":
                row["labels"] = [1.0, 0.0, float(number % 2)]
            case "number":
                row["label"] = number / 8 - 1
            case "tokens":
                row["labels"] = [token % 3 for token in ids]
            case "choices":
                row["input_ids"], row["label"] = [ids, ids[::-1], ids[:2]], number % 3
            case "answers":
                row["start_positions"], row["end_positions"] = 0, len(ids) - 1
    return rows


CASES = {
    "classes": ("SequenceClassification", {"num_labels": 3}),
    "several": ("SequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    "number": ("SequenceClassification", {"num_labels": 1}),
    "tokens": ("TokenClassification", {"num_labels": 3}),
    "answers": ("QuestionAnswering", {}),
    "masked": ("MaskedLM", {}),
    "choices": ("MultipleChoice", {}),
}


COLLATORS = {
    "masked": DataCollatorForLanguageModeling(Words(), mlm_probability=0.4),
    "choices": DataCollatorForMultipleChoice(Words()),
}


def make(folder, family, task, rows=None, stop=None, **given):
    head, options = CASES[task]
    torch.manual_seed(0)
    sizes = {**(BERT if family == "bert" else SIZES), "pad_token_id": 0}
    config = martlet.AutoConfig.for_model(family, **sizes, **options)
    model = getattr(martlet, f"AutoModelFor{head}").from_config(config)
    shared = {"max_steps": 6, "save_steps": 2, "learning_rate": 5e-3, "logging_steps": 1, "report_html": False}
    args = TrainingArguments(folder, per_device_train_batch_size=4, disable_tqdm=True, **{**shared, **given})
    return Trainer(
        model, args, train_dataset=rows or rows_of(task), callbacks=[Dies(stop)] if stop else None,
        data_collator=COLLATORS.get(task),
    )  # fmt: skip


@pytest.mark.parametrize(
    "family, task", [*(("bert", task) for task in CASES), ("llama", "classes"), ("llama", "tokens")]
)
def test_a_head_learns_and_resumes(tmp_path, family, task):
    whole = make(tmp_path / "whole", family, task)
    whole.train()
    losses = [each["loss"] for each in whole.state.log_history if "loss" in each]
    assert all(torch.isfinite(torch.tensor(losses)))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts", family, task, stop=5).train()
    parts = make(tmp_path / "parts", family, task)
    parts.train(resume_from_checkpoint=True)
    assert_equal(weights_of(whole.model), weights_of(parts.model))


@pytest.mark.parametrize("task", ["classes", "tokens", "number"])
def test_the_models_own_loss_is_the_objectives(tmp_path, task):
    trainer = make(tmp_path, "bert", task)
    trainer.model.eval()
    batch = trainer.fetcher(trainer.train_dataset, True).batch(0, (0, 1, 2), [
        trainer.reader(True).read(row, 0) for row in trainer.train_dataset[:3]
    ])  # fmt: skip
    inputs = trainer.objective.prepare(batch.inputs)
    with torch.no_grad():
        own = trainer.model(**inputs).loss
        assert trainer.compute_loss(trainer.model, dict(inputs)).item() == pytest.approx(own.item(), rel=1e-5)


@pytest.mark.parametrize(
    "task, change, says",
    [
        ("classes", {"label": 3}, "below 3, or -100; found 3"),
        ("classes", {"label": None}, "must have a label"),
        ("classes", {"label": 0.5}, "whole numbers|one class a row|found"),
        ("several", {"labels": [1.0, 0.0]}, "3 zeros and ones"),
        ("number", {"label": float("nan")}, "one finite number"),
        ("answers", {"start_positions": -1}, "places of tokens"),
        ("choices", {"label": 3}, "below 3, or -100; found 3. A label is the place"),
        ("choices", {"input_ids": [1, 2]}, "a list of ids for each choice"),
    ],
)
def test_labels_that_cannot_be_meant(tmp_path, task, change, says):
    rows = [{name: value for name, value in {**row, **change}.items() if value is not None} for row in rows_of(task)]
    with pytest.raises(TrainingDataError, match=says):
        make(tmp_path, "bert", task, rows).train()


def test_adapters_learn_and_resume(tmp_path):
    """LoRA with dropout: only the adapters change, and a run in parts is the run in one."""
    from tiny import tiny_model

    from martlet.training import LoraConfig, get_peft_model

    def train(folder, stop=None, resume=None):
        torch.manual_seed(3)
        lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
        args = TrainingArguments(folder, max_steps=6, save_steps=2, learning_rate=1e-2, per_device_train_batch_size=2,
                                 disable_tqdm=True, report_html=False)  # fmt: skip
        callbacks = [Dies(stop)] if stop else None
        trainer = Trainer(get_peft_model(tiny_model(), lora), args, train_dataset=make_rows(20), callbacks=callbacks)
        try:
            trainer.train(resume_from_checkpoint=resume)
        except KeyboardInterrupt:
            return None
        return weights_of(trainer.model)

    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", stop=5)
    assert_equal(whole, train(tmp_path / "parts", resume=True))
    base = weights_of(tiny_model())
    plain = [name for name in whole if "lora" not in name]
    assert len(plain) == len(base)
    assert all(torch.equal(whole[name], each) for name, each in zip(plain, base.values(), strict=True))
