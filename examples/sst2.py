"""Sentiment by fine-tuning a sentence encoder: `python examples/sst2.py MODEL sst2_train.tsv sst2_dev.tsv`.

MODEL is a BERT-like checkpoint (figures: all-MiniLM-L6-v2). Prints the accuracy on the dev set.
"""

import csv
import sys

from martlet import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from martlet.training import EvalPrediction, Trainer, TrainingArguments


def read(path: str) -> tuple[list[str], list[int]]:
    """Sentences and their classes of a file with the columns `sentence` and `label`."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], [int(row["label"]) for row in rows]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main(
    name: str,
    train_file: str,
    dev_file: str,
    output: str = "runs/sst2",
    epochs: float = 1,
    rows: int = 0,
    seed: int = 1,
) -> dict[str, float]:
    """Trains on the first `rows` rows (0: all), and returns loss and accuracy on the dev set."""
    tokenizer = AutoTokenizer.from_pretrained(name)

    def encode(path: str, count: int) -> list[dict[str, object]]:
        sentences, labels = read(path)
        sentences, labels = sentences[: count or None], labels[: count or None]
        encoded = tokenizer(sentences, truncation=True, max_length=128)["input_ids"]
        return [{"input_ids": ids, "label": label} for ids, label in zip(encoded, labels, strict=True)]

    set_seed(seed)  # the new head's weights
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    model.get_input_embeddings().requires_grad_(False)  # half the weights; what they know of words is enough
    args = TrainingArguments(
        output,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        num_train_epochs=float(epochs),
        learning_rate=1.5e-4,
        lr_scheduler_type="linear",
        warmup_steps=0.05,
        weight_decay=0.01,
        save_steps=100,
        save_total_limit=1,
        logging_steps=50,
        seed=seed,
        resume_from_checkpoint="auto",
    )
    dev = encode(dev_file, 0)
    trainer = Trainer(model, args, train_dataset=encode(train_file, rows), eval_dataset=dev, compute_metrics=accuracy)
    trainer.train()
    found = trainer.evaluate()
    print(f"{found['eval_accuracy']:.4f} of {len(dev)} dev sentences are right, loss {found['eval_loss']:.4f}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:4], *sys.argv[4:5])
