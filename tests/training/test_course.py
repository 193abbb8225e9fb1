"""Scripts of Hugging Face's course, chapters 3 and 7, with their imports swapped, on tiny models."""

import json
import math

import numpy as np
import pytest
import torch

import martlet
from martlet import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, get_scheduler
from martlet.errors import MissingNameError
from martlet.training import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)

pytest.importorskip("pyarrow")
tokenizers = pytest.importorskip("tokenizers")
from martlet.datasets import Dataset, DatasetDict  # noqa: E402

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dog",
    "ran",
    "to",
    "house",
    "big",
    "small",
    "red",
    "blue",
    "is",
    "was",
    "who",
    "where",
    "what",
    "bob",
    "lives",
    "in",
    "paris",
    ".",
    "?",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTEXT = "bob lives in paris . the cat sat on a mat . the dog is big"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny BERT with its tokenizer, as a folder of Hugging Face's."""
    folder = tmp_path_factory.mktemp("bert")
    vocab = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = AutoConfig.for_model(
        "bert", vocab_size=len(vocab), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    martlet.AutoModelForMaskedLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **named})
    )
    return str(folder)


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]


def arguments(folder, **given):
    return TrainingArguments(str(folder), report_to="none", disable_tqdm=True, report_html=False, **given)


def test_chapter_3_text_classification(checkpoint, tmp_path):
    rng = np.random.default_rng(1)
    raw = DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "sentence1": sentences(16, 1), "sentence2": sentences(16, 2), "idx": list(range(16)),
                    "label": rng.integers(0, 2, 16).tolist(),
                }
            )
            for split in ("train", "validation")
        }
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenized = raw.map(lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True), batched=True)
    collator = DataCollatorWithPadding(tokenizer=tokenizer)
    model = martlet.AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2, allow_new="pooler")

    def compute_metrics(eval_preds):
        logits, labels = eval_preds
        return {"accuracy": (np.argmax(logits, axis=-1) == labels).mean()}

    trainer = Trainer(
        model, arguments(tmp_path, eval_strategy="epoch", num_train_epochs=2), train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"], data_collator=collator, processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )  # fmt: skip
    trainer.train()
    found = trainer.predict(tokenized["validation"])
    assert found.predictions.shape == (16, 2) and 0 <= found.metrics["test_accuracy"] <= 1
    # the loop of one's own
    columns = tokenized.remove_columns(["sentence1", "sentence2", "idx"]).rename_column("label", "labels")
    columns.set_format("torch")
    loader = torch.utils.data.DataLoader(columns["train"], shuffle=True, batch_size=8, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    schedule = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=0, num_training_steps=len(loader))
    model.train()
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert optimizer.param_groups[0]["lr"] == 0


def test_chapter_7_token_classification(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = Dataset.from_dict({"tokens": [each.split() for each in sentences(12)]})
    rows = rows.map(lambda row: {"ner_tags": [len(word) % 3 for word in row["tokens"]]})

    def align(examples):
        inputs = tokenizer(examples["tokens"], truncation=True, is_split_into_words=True)
        inputs["labels"] = [
            [-100 if word is None else tags[word] for word in inputs.word_ids(row)]
            for row, tags in enumerate(examples["ner_tags"])
        ]
        return inputs

    tokenized = rows.map(align, batched=True, remove_columns=rows.column_names)
    names = dict(enumerate(["O", "B-PER", "I-PER"]))
    model = martlet.AutoModelForTokenClassification.from_pretrained(
        checkpoint, id2label=names, label2id={name: number for number, name in names.items()}
    )

    def compute_metrics(eval_preds):
        logits, labels = eval_preds
        return {"accuracy": float((np.argmax(logits, -1) == labels)[labels != -100].mean())}

    args = arguments(tmp_path, eval_strategy="epoch", save_strategy="epoch", num_train_epochs=2, weight_decay=0.01,
                     learning_rate=2e-5, push_to_hub=False)  # fmt: skip
    trainer = Trainer(
        model=model, args=args, train_dataset=tokenized, eval_dataset=tokenized, compute_metrics=compute_metrics,
        data_collator=DataCollatorForTokenClassification(tokenizer=tokenizer), processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_chapter_7_masked_words(checkpoint, tmp_path):
    tokenizer, size = AutoTokenizer.from_pretrained(checkpoint), 16
    raw = Dataset.from_dict({"text": sentences(40), "label": [0] * 40})

    def tokenize(examples):
        result = tokenizer(examples["text"])
        result["word_ids"] = [result.word_ids(row) for row in range(len(result["input_ids"]))]
        return result

    def group(examples):
        joined = {key: [each for row in rows for each in row] for key, rows in examples.items()}
        total = len(joined["input_ids"]) // size * size
        result = {key: [row[at : at + size] for at in range(0, total, size)] for key, row in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    blocks = raw.map(tokenize, batched=True, remove_columns=["text", "label"]).map(group, batched=True)
    parts = blocks.train_test_split(train_size=8, test_size=4, seed=42)
    args = arguments(tmp_path, eval_strategy="epoch", per_device_train_batch_size=4, num_train_epochs=1, fp16=False)
    trainer = Trainer(
        model=martlet.AutoModelForMaskedLM.from_pretrained(checkpoint), args=args, train_dataset=parts["train"],
        eval_dataset=parts["test"], processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.3),
    )  # fmt: skip
    assert math.exp(trainer.evaluate()["eval_loss"]) > 1
    assert trainer.train().global_step == 2


def test_chapter_7_a_language_model_from_scratch(checkpoint, tmp_path):
    tokenizer, context = AutoTokenizer.from_pretrained(checkpoint), 16
    raw = Dataset.from_dict({"content": [" ".join(sentences(6, seed)) for seed in range(12)]})

    def tokenize(element):
        outputs = tokenizer(
            element["content"], truncation=True, max_length=context, return_overflowing_tokens=True, return_length=True
        )
        return {
            "input_ids": [
                ids for length, ids in zip(outputs["length"], outputs["input_ids"], strict=True) if length == context
            ]
        }

    tokenized = raw.map(tokenize, batched=True, remove_columns=raw.column_names)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_positions=context, n_embd=32, n_layer=2, n_head=4
    )
    tokenizer.pad_token = tokenizer.sep_token
    args = arguments(
        tmp_path, per_device_train_batch_size=4, eval_strategy="steps", eval_steps=2, logging_steps=2, warmup_steps=2,
        gradient_accumulation_steps=2, num_train_epochs=1, weight_decay=0.1, lr_scheduler_type="cosine", save_steps=2,
        learning_rate=5e-4,
    )  # fmt: skip
    trainer = Trainer(
        model=AutoModelForCausalLM.from_config(config), processing_class=tokenizer, args=args,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False), train_dataset=tokenized,
        eval_dataset=tokenized,
    )  # fmt: skip
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[-1] < losses[0]


def test_chapter_7_question_answering(checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    begin = CONTEXT.index("paris")
    raw = Dataset.from_dict({"question": ["where is bob ?"] * 8, "context": [CONTEXT] * 8, "begin": [begin] * 8})

    def places(examples):
        inputs = tokenizer(
            examples["question"], examples["context"], max_length=16, truncation="only_second", stride=4,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
        )  # fmt: skip
        offsets, _ = inputs.pop("offset_mapping"), inputs.pop("overflow_to_sample_mapping")
        found = []
        for row, spans in enumerate(offsets):
            second = [place for place, each in enumerate(inputs.sequence_ids(row)) if each == 1]
            found.append(next((place for place in second if spans[place][0] == begin), 0))
        inputs["start_positions"] = inputs["end_positions"] = found
        return inputs

    rows = raw.map(places, batched=True, remove_columns=raw.column_names)
    assert len(rows) == 24  # three windows a row
    model = martlet.AutoModelForQuestionAnswering.from_pretrained(checkpoint, allow_new="head")
    args = arguments(tmp_path, save_strategy="epoch", num_train_epochs=1)
    trainer = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    trainer.train()
    (starts, ends), _, _ = trainer.predict(rows)
    assert starts.shape == ends.shape == (24, 16)


def test_chapter_7_translation_is_refused_by_name():
    with pytest.raises(MissingNameError, match="Encoder-decoder models are not here"):
        from martlet import AutoModelForSeq2SeqLM  # noqa: F401
