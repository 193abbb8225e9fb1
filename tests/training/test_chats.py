"""Chats: the assistant's words alone are learnt, by the template's marks or by the roles' spans."""

import pytest
import tokenizers
from tiny import tiny_model

from martlet.errors import TrainingDataError
from martlet.tokenizers import Tokenizer
from martlet.training import Trainer, TrainingArguments
from martlet.training.samples import encode_chat

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<e>{% endgeneration %}{% else %}{{ m.content }}<e>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REWRITES = "{% for m in messages %}{{ loop.length }}{{ m.role }}{{ m.content }}{% endfor %}"
CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello you"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "see you"},
]


def make_tokenizer(template):
    """A token a character, and one for each mark."""
    characters = sorted(set("abcdefghijklmnopqrstuvwxyz <>|0123456789"))
    model = tokenizers.models.WordLevel({each: place for place, each in enumerate(characters)}, unk_token=" ")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<e>"])
    tokenizer = Tokenizer(backend)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_the_assistants_words_are_learnt(template):
    tokenizer = make_tokenizer(template)
    ids, labels = encode_chat(tokenizer, CHAT)
    learnt = [token for token in labels if token != -100]
    assert tokenizer.convert_ids_to_tokens(learnt) == [*"hello you", "<e>", *"see you", "<e>"]
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert len(ids) == len(tokenizer.apply_chat_template(CHAT)["input_ids"])


def test_a_chat_without_an_answer():
    with pytest.raises(TrainingDataError, match=r"row 3: must have a supervised token.*'system', 'user'"):
        encode_chat(make_tokenizer(PLAIN), CHAT[:2], number=3)


def test_a_template_that_rewrites_earlier_turns():
    with pytest.raises(TrainingDataError, match="generation"):
        encode_chat(make_tokenizer(REWRITES), CHAT)


def test_a_trainer_learns_chats_and_texts(tmp_path):
    tokenizer = make_tokenizer(PLAIN)
    args = TrainingArguments(tmp_path, max_steps=60, per_device_train_batch_size=2, learning_rate=1e-2,
                             report_html=False, disable_tqdm=True, save_strategy="no")  # fmt: skip
    model = tiny_model(vocab_size=len(tokenizer))
    trainer = Trainer(
        model, args, train_dataset=[{"messages": CHAT}, {"text": "hello you"}], processing_class=tokenizer
    )
    trainer.train()
    prompt = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=10, do_sample=False)[0]
    said = tokenizer.convert_ids_to_tokens(out[prompt["input_ids"].shape[1] :].tolist())
    assert said[:9] == list("hello you")
