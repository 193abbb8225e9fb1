"""Sequence to sequence on decoders: only targets are learnt, and evaluation writes after the prompt."""

import pytest
import torch
from test_chats import CHAT, PLAIN, make_tokenizer
from tiny import assert_equal, tiny_model, weights_of

from martlet import GenerationConfig
from martlet.errors import ArgumentError, TrainingDataError, UnsupportedError
from martlet.training import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

IDS = [
    {"input_ids": [5, 6, 7], "labels": [8, 9]},
    {"input_ids": [11, 12, 0, 0], "attention_mask": [1, 1, 0, 0], "labels": [13, 14, 15, -100]},
    {"input_ids": [20], "labels": [21]},
]


def arguments(folder, **changes):
    own = {"per_device_train_batch_size": 3, "report_html": False, "disable_tqdm": True, "save_strategy": "no"}
    return Seq2SeqTrainingArguments(folder, **{**own, "max_steps": 3, "learning_rate": 1e-2, **changes})


def test_only_targets_are_learnt(tmp_path):
    joined = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100] * 3 + [8, 9]},
        {"input_ids": [11, 12, 13, 14, 15], "labels": [-100] * 2 + [13, 14, 15]},
        {"input_ids": [20, 21], "labels": [-100, 21]},
    ]
    ours, plain = tiny_model(), tiny_model()
    Seq2SeqTrainer(ours, arguments(tmp_path), train_dataset=IDS).train()
    args = {name: each for name, each in arguments(tmp_path).to_dict().items() if name in TrainingArguments().to_dict()}
    Trainer(plain, TrainingArguments(**args), train_dataset=joined).train()
    assert_equal(weights_of(ours), weights_of(plain))


def test_what_an_evaluation_writes(tmp_path):
    seen = []

    def look(found):
        seen.append(found)
        return {"rows": len(found.predictions)}

    model = tiny_model(eos_token_id=2)
    args = arguments(
        tmp_path, max_steps=60, predict_with_generate=True, generation_max_length=4, per_device_eval_batch_size=2
    )
    trainer = Seq2SeqTrainer(model, args, train_dataset=IDS, eval_dataset=IDS, compute_metrics=look)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 3 and metrics["eval_loss"] < 0.1
    predictions, labels = seen[0].predictions, seen[0].label_ids
    assert labels.tolist() == [[8, 9, -100], [13, 14, 15], [21, -100, -100]]
    for made, wanted in zip(predictions.tolist(), labels.tolist(), strict=True):
        target = [each for each in wanted if each != -100]
        assert made[: len(target)] == target
    assert predictions.shape == (3, 4)
    assert trainer.predict(IDS, max_new_tokens=2).predictions.shape == (3, 2)
    args.generation_config = GenerationConfig(max_new_tokens=3)
    args.generation_max_length = None
    found = trainer.predict([{"input_ids": row["input_ids"]} for row in IDS[:1]])
    assert found.predictions.shape == (1, 3) and found.label_ids is None
    assert found.predictions[0].tolist()[:2] == [8, 9]


def test_texts_and_messages(tmp_path):
    tokenizer = make_tokenizer(PLAIN)
    model = tiny_model(vocab_size=len(tokenizer))
    rows = [
        {"text": "one two", "text_target": "three"},
        {"prompt": "one", "completion": " two"},
        {"prompt": CHAT[:2], "completion": [CHAT[2]]},
    ]
    trainer = Seq2SeqTrainer(model, arguments(tmp_path), train_dataset=rows, processing_class=tokenizer)
    read = trainer.reader(True)
    for number, row in enumerate(rows):
        sample = read.read(row, number)
        supervised = [each for each in sample["labels"] if each != -100]
        assert supervised and sample["input_ids"][-len(supervised) :] == supervised
    assert supervised == tokenizer("hello you<e>")["input_ids"]  # of the chat, with the template's own end
    assert trainer.train().global_step == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"input_ids": [1, 2]}, "must have a target"),
        ({"input_ids": [1, 2], "labels": [-100]}, "must have a target"),
        ({"input_ids": [], "labels": [1]}, "a prompt must have a token"),
        ({"input_ids": [1], "labels": [99]}, "below the vocabulary"),
        ({"label": 1}, "must have input_ids and labels"),
        ({"text": "a", "text_target": "b"}, "there is no tokenizer"),
    ],
)
def test_rows_that_cannot_be_learnt(tmp_path, row, says):
    with pytest.raises(TrainingDataError, match=says):
        Seq2SeqTrainer(tiny_model(), arguments(tmp_path), train_dataset=[row]).train()


def test_what_is_refused(tmp_path):
    from martlet import AutoConfig, AutoModelForSequenceClassification

    with pytest.raises(UnsupportedError, match="sortish_sampler"):
        arguments(tmp_path, sortish_sampler=True)
    with pytest.raises(ArgumentError, match="generation_num_beams"):
        arguments(tmp_path, generation_num_beams=0)
    with pytest.raises(ArgumentError, match="Seq2SeqTrainingArguments"):
        Seq2SeqTrainer(tiny_model(), TrainingArguments(tmp_path))
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model("bert", **sizes, intermediate_size=32, max_position_embeddings=16)
    with pytest.raises(UnsupportedError, match="no encoder-decoder family exists"):
        Seq2SeqTrainer(AutoModelForSequenceClassification.from_config(config, num_labels=2), arguments(tmp_path))

    class TinyForConditionalGeneration(torch.nn.Module):
        def forward(self, input_ids, labels=None): ...

    with pytest.raises(UnsupportedError, match="no such family exists"):
        Seq2SeqTrainer(TinyForConditionalGeneration(), arguments(tmp_path))
