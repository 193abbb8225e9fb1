"""Large batches by the faster library: the values `tokenizers` gives, whatever is asked, or `tokenizers` itself."""

import copy
import json
import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from martlet.errors import TokenizerError
from martlet.tokenizers.fast import written_form
from martlet.tokenizers.proving import SENTENCES
from martlet.tokenizers.tokenizer import Tokenizer

pytest.importorskip("fastokens")
TEXTS = [*SENTENCES, "", "plain words"] * 2


@pytest.fixture
def tokenizer():
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(list(SENTENCES), trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    ours = Tokenizer(made)
    ours.pad_token = "<pad>"
    ours._fast.seen_chars = 1 << 30  # so that the check is made at once
    return ours


def without(tokenizer, monkeypatch, *args, **options):
    """The same call with the faster library turned off."""
    with monkeypatch.context() as patch:
        patch.setenv("MARTLET_FAST_TOKENIZE", "0")
        batch = tokenizer(*args, **options)
    assert not batch.token_arrays()
    return batch


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_special_tokens": False},
        {"truncation": True, "max_length": 7},
        {"truncation": "only_first", "max_length": 3, "return_length": True},
        {"padding": True},
        {"padding": True, "padding_side": "left", "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40},
        {"padding": "max_length", "truncation": True, "max_length": 9, "return_token_type_ids": True},
        {"padding": True, "truncation": True, "max_length": 12, "return_attention_mask": False},
    ],
    ids=str,
)
def test_the_same_values(tokenizer, monkeypatch, options):
    quick, plain = tokenizer(TEXTS, **options), without(tokenizer, monkeypatch, TEXTS, **options)
    assert "input_ids" in quick.token_arrays()
    assert list(quick) == list(plain) and len(quick) == len(plain) and dict(quick) == dict(plain)
    assert not quick.token_arrays() and all(type(row) is list for row in quick.input_ids)


def test_tensors_and_places_in_the_text(tokenizer, monkeypatch):
    options = {"padding": True, "truncation": True, "max_length": 16}
    made, plain = (make(TEXTS, return_tensors="np", **options)
                   for make in (tokenizer, lambda *a, **k: without(tokenizer, monkeypatch, *a, **k)))  # fmt: skip
    for name in plain:
        assert made[name].dtype == plain[name].dtype and np.array_equal(made[name], plain[name])
    batch = tokenizer(TEXTS)
    assert batch.is_fast and batch.tokens(1) == without(tokenizer, monkeypatch, TEXTS).tokens(1)
    assert pickle.loads(pickle.dumps(tokenizer(TEXTS)))["input_ids"] == batch["input_ids"]
    kept = tokenizer(TEXTS)
    other = copy.copy(kept)
    other["labels"] = other["input_ids"]
    assert "labels" not in kept and kept.token_arrays() and kept[0].ids == batch["input_ids"][0]


def test_left_to_tokenizers(tokenizer, monkeypatch):
    for options in (
        {"return_offsets_mapping": True},
        {"return_special_tokens_mask": True},
        {"truncation": True, "max_length": 8, "stride": 2, "return_overflowing_tokens": True},
    ):
        assert not tokenizer(TEXTS, **options).token_arrays()
    assert not tokenizer(TEXTS[:8]).token_arrays() and not tokenizer(TEXTS, TEXTS).token_arrays()
    tokenizer.truncation_side = "left"
    made = tokenizer(TEXTS, truncation=True, max_length=7)
    assert not made.token_arrays()
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer([*TEXTS, "\ud800"])


def test_a_tokenizer_that_changes(tokenizer, monkeypatch):
    before = tokenizer(TEXTS)
    tokenizer.add_tokens(["plain"])
    after = tokenizer(TEXTS)
    assert after.token_arrays() and after["input_ids"] == without(tokenizer, monkeypatch, TEXTS)["input_ids"]
    assert after["input_ids"] != before["input_ids"]
    with pytest.raises(TokenizerError, match="changed"):
        before.tokens(0)
    twin = copy.copy(tokenizer)
    twin.add_tokens(["words"])  # one backend in both
    assert tokenizer(TEXTS)["input_ids"] == without(tokenizer, monkeypatch, TEXTS)["input_ids"]
    assert pickle.loads(pickle.dumps(tokenizer))(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    changed = tokenizer(TEXTS)
    assert not changed.token_arrays() and changed["input_ids"][-1] == tokenizer("plain words")["input_ids"]


def test_the_check_waits_until_it_pays(tokenizer, monkeypatch):
    from martlet.tokenizers import fast

    monkeypatch.setattr(fast, "_proofs", {})
    tokenizer._fast.seen_chars = 0
    assert not tokenizer(TEXTS).token_arrays() and not fast._proofs
    tokenizer._fast.seen_chars = fast.PAYS_CHARS
    assert tokenizer(TEXTS).token_arrays()


def test_a_map_keeps_arrays(tokenizer, monkeypatch):
    pytest.importorskip("pyarrow")
    from martlet.datasets import Dataset
    from martlet.tokenizers.batch import Ragged

    rows = Dataset.from_dict({"text": TEXTS})
    expected = rows.map(lambda batch: dict(without(tokenizer, monkeypatch, batch["text"])), batched=True)
    monkeypatch.setattr(Ragged, "lists", lambda self: pytest.fail("Python integers were made"))
    made = rows.map(lambda batch: tokenizer(batch["text"]), batched=True)
    assert made.features == expected.features
    assert made.data.to_pylist() == expected.data.to_pylist()


def test_a_tokenizer_is_written_without_what_a_call_gives_it() -> None:
    """Whatever stands in the padding token: the text is cut where the tokens begin, and nowhere else."""
    made = Backend(models.BPE({"a": 0, "ä": 1, '"': 2}, []))
    plain = written_form(made)
    assert json.loads(plain) == {**json.loads(made.to_str()), "padding": None, "truncation": None}
    made.enable_padding(pad_token='x,"added_tokens":[],')
    made.enable_truncation(3)
    assert written_form(made) == plain
    made.add_tokens(["b"])
    assert written_form(made) != plain
