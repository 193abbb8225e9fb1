"""A small chat model learns to answer in a fixed JSON form, by LoRA: `python examples/json_answers.py MODEL`.

MODEL is a chat model (figures: SmolLM2-135M-Instruct). Prints, before and after, which share of the answers to
sentences it was not trained on parse as JSON, and which are right: the three keys with the values of the sentence.
"""

import json
import random
import sys
from typing import Any

from martlet import AutoModelForCausalLM, AutoTokenizer, set_seed
from martlet.training import LoraConfig, Trainer, TrainingArguments, get_peft_model

SYSTEM = "Answer in JSON."  # which keys it has to learn
NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karin",
    "Leo",
    "Maria",
    "Nils",
)
CITIES = (
    "Paris",
    "Rome",
    "Oslo",
    "Berlin",
    "Madrid",
    "Vienna",
    "Dublin",
    "Lisbon",
    "Athens",
    "Prague",
    "London",
    "Tokyo",
)
FORMS = (
    "{name} is {age} years old and lives in {city}.",
    "{name}, {age}, comes from {city}.",
    "In {city} I met {name}, who is {age}.",
    "My neighbour {name} moved to {city} at the age of {age}.",
)


def make_facts(count: int, seed: int) -> list[dict[str, Any]]:
    """Distinct facts: a name, an age and a city."""
    every = [{"name": name, "age": age, "city": city} for name in NAMES for age in range(18, 80) for city in CITIES]
    return random.Random(seed).sample(every, count)


def question(fact: dict[str, Any], form: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": form.format(**fact)}]


def make_chats(facts: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Chats whose last message is the answer wanted."""
    chance = random.Random(seed)
    answers = [{"role": "assistant", "content": json.dumps(fact)} for fact in facts]
    asked = [question(fact, chance.choice(FORMS)) for fact in facts]
    return [{"messages": [*each, answer]} for each, answer in zip(asked, answers, strict=True)]


def measure(
    model: Any, tokenizer: Any, chats: list[dict[str, Any]], facts: list[dict[str, Any]]
) -> tuple[float, float]:
    """The shares of greedy answers that are a JSON object, and that are the right one."""
    tokenizer.padding_side = "left"
    asked = [chat["messages"][:-1] for chat in chats]
    inputs = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    parsed = right = 0
    for text, fact in zip(texts, facts, strict=True):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        parsed += isinstance(found, dict)
        right += found == fact
    return parsed / len(facts), right / len(facts)


def main(name: str, output: str = "runs/json_answers", max_steps: int = 60, tested: int = 100) -> dict[str, float]:
    """Trains, prints and returns the shares before and after."""
    facts = make_facts(8 * max_steps + tested, seed=1)
    chats = make_chats(facts, seed=2)
    tokenizer = AutoTokenizer.from_pretrained(name)
    set_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    before = measure(model.eval(), tokenizer, chats[:tested], facts[:tested])
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    args = TrainingArguments(
        output,
        per_device_train_batch_size=8,
        max_steps=max_steps,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        save_steps=10,
        save_total_limit=1,
        logging_steps=5,
        seed=1,
        resume_from_checkpoint="auto",
    )
    trainer = Trainer(
        model, args, train_dataset=chats[tested:], eval_dataset=chats[:tested], processing_class=tokenizer
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    after = measure(model.eval(), tokenizer, chats[:tested], facts[:tested])
    for when, (parsed, right) in (("before", before), ("after", after)):
        print(f"{when}: {parsed:.0%} of {tested} answers parse as JSON, {right:.0%} are right")
    print(f"loss on their answers {loss:.4f}")
    return {
        "parsed_before": before[0], "right_before": before[1], "parsed": after[0], "right": after[1], "loss": loss,
    }  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:3])
