"""A small character GPT, from scratch: `python examples/tinyshakespeare.py tinyshakespeare.txt`.

Prints the loss in nats per character on the last tenth of the text, which was not trained on. Kill it and start it
again: it goes on where it was.
"""

import sys
from pathlib import Path

from martlet import AutoConfig, AutoModelForCausalLM, set_seed
from martlet.training import Trainer, TrainingArguments

CONTEXT = 128


def cut(ids: list[int]) -> list[dict[str, list[int]]]:
    """Rows of CONTEXT + 1 characters, each starting with the last one of the row before."""
    return [{"input_ids": ids[start : start + CONTEXT + 1]} for start in range(0, len(ids) - 1, CONTEXT)]


def main(text_file: str, output: str = "runs/tinyshakespeare", max_steps: int = 4000) -> float:
    text = Path(text_file).read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = [characters.index(character) for character in text]
    held_out = len(ids) * 9 // 10
    set_seed(1)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "llama",
            vocab_size=len(characters),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT + 1,
            tie_word_embeddings=True,
        )
    )
    args = TrainingArguments(
        output,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=32,
        max_steps=max_steps,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.1,
        adam_beta2=0.99,
        eval_strategy="steps",
        eval_steps=1000,
        save_steps=250,
        save_total_limit=2,
        logging_steps=50,
        seed=1,
        resume_from_checkpoint="auto",
    )
    trainer = Trainer(model, args, train_dataset=cut(ids[:held_out]), eval_dataset=cut(ids[held_out:]))
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    print(f"{loss:.4f} nats per character on held-out text")
    return loss


if __name__ == "__main__":
    main(*sys.argv[1:])
