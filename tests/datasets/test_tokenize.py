"""`tokenize`: the tokenizer's own ids, by a faster library only where it was shown to be equal."""

import json

import pyarrow as pa
import pytest
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from martlet.datasets import Dataset, IterableDataset, tokenize, tokenize_backend
from martlet.errors import ArgumentError, MissingDependencyError, UnsupportedError
from martlet.tokenizers import fast as fast_encoding
from martlet.tokenizers.proving import SENTENCES

TEXTS = [*SENTENCES, "", "plain words", None]


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(list(SENTENCES) * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return made


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture
def dataset():
    return Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})


def expected(tokenizer, adds_special=True):
    return [None if t is None else tokenizer.encode(t, add_special_tokens=adds_special).ids for t in TEXTS]


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("adds_special", [True, False])
def test_ids_are_the_tokenizers(tokenizer, dataset, fast, adds_special):
    made = tokenize(dataset, tokenizer, fast=fast, add_special_tokens=adds_special, return_attention_mask=True)
    assert made["input_ids"][:] == expected(tokenizer, adds_special)
    assert made.data.schema.field("input_ids").type == pa.list_(pa.int32())
    assert made.column_names == ["text", "n", "input_ids", "attention_mask"]
    assert [m and len(m) for m in made["attention_mask"][:]] == [i and len(i) for i in made["input_ids"][:]]


def test_truncation_columns_and_streams(tokenizer, dataset):
    short = tokenize(dataset, tokenizer, truncation=True, max_length=5, remove_columns="text")
    assert short.column_names == ["n", "input_ids"]
    clone = Tokenizer.from_str(tokenizer.to_str())
    clone.enable_truncation(5)
    assert short["input_ids"][:-1] == [clone.encode(text).ids for text in TEXTS[:-1]]
    two = tokenize(Dataset.from_dict({"a": ["x y"], "b": ["z"]}), tokenizer, ["a", "b"])
    assert two[0]["a_input_ids"] == tokenizer.encode("x y").ids and two[0]["b_input_ids"] == tokenizer.encode("z").ids
    stream = IterableDataset.from_generator(lambda: iter([{"text": "plain words"}]))
    assert next(iter(tokenize(stream, tokenizer)))["input_ids"] == tokenizer.encode("plain words").ids


def test_which_library_is_taken_can_be_asked_and_turned_off(tokenizer, dataset, monkeypatch):
    pytest.importorskip("fastokens")
    assert tokenize_backend(tokenizer).startswith("fastokens ")
    assert (
        tokenize_backend(tokenizer, fast=False) == f"tokenizers {tokenizers.__version__} (the fast one is turned off)"
    )
    monkeypatch.setenv("MARTLET_FAST_TOKENIZE", "0")
    assert "turned off" in tokenize_backend(tokenizer)
    assert tokenize(dataset, tokenizer)["input_ids"][:] == expected(tokenizer)


def test_a_vocabulary_it_reads_otherwise_is_not_given_to_it(monkeypatch, dataset):
    pytest.importorskip("fastokens")
    other = byte_level()
    other.normalizer = normalizers.NFC()  # a vocabulary no other test proves

    class Wrong(fast_encoding._Fast):
        def _encoded(self, texts, adds_special):
            ids, offsets = super()._encoded(texts, adds_special)
            wrong = next((number for number, text in enumerate(texts) if "रावण" in text), None)
            if wrong is not None:
                ids = ids.copy()
                ids[offsets[wrong]] += 1
            return ids, offsets

    monkeypatch.setattr(fast_encoding, "_Fast", Wrong)
    monkeypatch.setattr(fast_encoding, "_encoders", {})
    monkeypatch.setattr(fast_encoding, "_proofs", {})
    assert tokenize_backend(other).startswith("tokenizers ") and "other ids for" in tokenize_backend(other)
    with pytest.raises(UnsupportedError, match="other ids"):
        tokenize(dataset, other, fast=True)
    assert tokenize(dataset, other)["input_ids"][:] == expected(other)


def test_without_the_extra(tokenizer, dataset, monkeypatch):
    monkeypatch.setattr(fast_encoding.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in tokenize_backend(tokenizer)
    with pytest.raises(MissingDependencyError, match="fast-tokenize"):
        tokenize(dataset, tokenizer, fast=True)
    assert tokenize(dataset, tokenizer)["input_ids"][:] == expected(tokenizer)


def test_what_it_cannot_read_is_left_to_the_reference(dataset):
    words = {"[UNK]": 0, "plain": 1, "words": 2, "[CLS]": 3, "[SEP]": 4}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    assert tokenize(dataset, made)["input_ids"][:] == expected(made)


def test_errors(tokenizer, dataset):
    with pytest.raises(ArgumentError, match="text_column"):
        tokenize(dataset, tokenizer, "nothing")
    with pytest.raises(ArgumentError, match="max_length"):
        tokenize(dataset, tokenizer, truncation=True)
    with pytest.raises(ArgumentError, match="must be text"):
        tokenize(dataset, tokenizer, "n").column_names and tokenize(dataset, tokenizer, "n")[0]
    with pytest.raises(UnsupportedError, match="fast one"):
        tokenize(dataset, object())
    with pytest.raises(ArgumentError, match="'auto'"):
        tokenize(dataset, tokenizer, fast="yes")


@pytest.mark.slow
def test_real_vocabularies(real_tokenizer, smollm2_folder, dataset):
    for folder in (smollm2_folder, *(real_tokenizer(name) for name in ("qwen3", "llama3"))):
        made = Tokenizer.from_str(json.dumps(json.loads((folder / "tokenizer.json").read_text("utf-8"))))
        assert tokenize(dataset, made)["input_ids"][:] == expected(made), tokenize_backend(made)
