"""DPO: the loss is the paper's formula, and training it makes the chosen answers likelier than the rejected ones."""

import pytest
import torch
from test_chats import CHAT, PLAIN, make_tokenizer
from tiny import tiny_model

from martlet.errors import ArgumentError, TrainingDataError
from martlet.training import DPOTrainer, TrainingArguments

PAIRS = [
    {"prompt": "one two", "chosen": " yes", "rejected": " no no"},
    {"prompt": "three", "chosen": " go", "rejected": " stay"},
    {"prompt": CHAT[:2], "chosen": [CHAT[2]], "rejected": [{"role": "assistant", "content": "no"}]},
]


def make(folder, rows=PAIRS, **more):
    tokenizer = make_tokenizer(PLAIN)
    models = [tiny_model(vocab_size=len(tokenizer)) for _ in range(2)]
    args = TrainingArguments(folder, per_device_train_batch_size=3, max_steps=20, learning_rate=3e-3, logging_steps=1,
                             report_html=False, disable_tqdm=True, save_strategy="no")  # fmt: skip
    own = {"ref_model": models[1], "train_dataset": rows, "eval_dataset": rows, "processing_class": tokenizer}
    return DPOTrainer(models[0], args=args, **{**own, **more}), tokenizer


def log_prob(model, tokenizer, prompt, answer):
    before, after = tokenizer(prompt)["input_ids"], tokenizer(answer)["input_ids"]
    with torch.no_grad():
        scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(scores[len(before) - 1 + place, token].item() for place, token in enumerate(after))


def test_the_loss_is_the_formula(tmp_path):
    trainer, tokenizer = make(tmp_path, PAIRS[:2], beta=0.7)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    expected = []
    for row in PAIRS[:2]:
        own, reference = (
            [log_prob(model, tokenizer, row["prompt"], row[name]) for name in ("chosen", "rejected")]
            for model in (trainer.model, trainer.ref_model)
        )
        margin = 0.7 * ((own[0] - reference[0]) - (own[1] - reference[1]))
        expected.append(-torch.nn.functional.logsigmoid(torch.tensor(margin)).item())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_it_learns_to_prefer(tmp_path):
    trainer, _ = make(tmp_path)
    reference = {name: each.clone() for name, each in trainer.ref_model.state_dict().items()}
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.35
    rewards = trainer.predict(PAIRS).predictions
    assert (rewards[:, 0] > rewards[:, 1]).all()
    assert all(torch.equal(each, reference[name]) for name, each in trainer.ref_model.state_dict().items())


def test_what_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="ref_model: is needed"):
        make(tmp_path, ref_model=None)
    trainer, _ = make(tmp_path, [{"prompt": "a", "chosen": "b"}])
    with pytest.raises(TrainingDataError, match="must have prompt, chosen and rejected"):
        trainer.train()
